"use strict";
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const ORIGINS = ["real", "synthetic"];
const GAP = 8, FRAME = 3, TEXT = 18, BUTTONS = 26; // pixels, as in the style sheet
// A small picture is enlarged by a whole factor, so that its pixels stay squares.
const SIDE = data.side <= 48 ? data.side * Math.round(96 / data.side) : 96;
const WIDE = SIDE + 2 * FRAME, HIGH = WIDE + TEXT + BUTTONS;
const each = data.columns * data.columns; // pictures of a sprite
const ticks = new Map(); // position of a picture: its origin
const tiles = new Map(); // position of a picture: its element on the page
const grid = $("grid");
let shown = [], columns = 1, current = -1; // shown: positions in the order of the screen
let isStored = true, saved = 0; // saved: number of ticks in the file

// --- ticks -------------------------------------------------------------------------

const KEY = "rsmatch sift " + data.id;

function loadTicks() {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY)) || {};
    const positions = new Map(data.path.map((path, i) => [path, i]));
    for (const origin of ORIGINS)
      for (const path of stored[origin] || [])
        if (positions.has(path)) ticks.set(positions.get(path), origin);
  } catch (error) {
    forgetful();
  }
}

function storeTicks() {
  const stored = { real: [], synthetic: [] };
  for (const [i, origin] of ticks) stored[origin].push(data.path[i]);
  try {
    localStorage.setItem(KEY, JSON.stringify(stored));
  } catch (error) {
    forgetful();
  }
}

function forgetful() {
  isStored = false;
  $("note").hidden = false;
}

function tick(i, origin) {
  if (origin) ticks.set(i, origin);
  else ticks.delete(i);
  storeTicks();
  if (tiles.has(i)) fill(tiles.get(i), i);
  showTicks();
  showDetail();
}

function showTicks() {
  const counts = ORIGINS.map((o) => [...ticks.values()].filter((x) => x === o).length);
  $("ticked").textContent = `ticked: ${counts[0]} real, ${counts[1]} synthetic`;
  $("save").disabled = ticks.size === 0;
}

function quoted(text) {
  return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function save() {
  const lines = ["path,origin"];
  data.path.forEach((path, i) => {
    if (ticks.has(i)) lines.push(`${quoted(path)},${ticks.get(i)}`);
  });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = "origins.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  saved = ticks.size;
}

// --- the grid: only the tiles near the screen exist --------------------------------

function picture(element, i, side) {
  const place = i % each, x = place % data.columns, y = Math.floor(place / data.columns);
  element.className = `picture sprite-${Math.floor(i / each)}`;
  element.style.backgroundSize = `${data.columns * side}px auto`;
  element.style.backgroundPosition = `${-x * side}px ${-y * side}px`;
}

function words(i) {
  const parts = [];
  if (data.class[i] >= 0) {
    const p = data.probability[i];
    parts.push(data.classes[data.class[i]] + (p === null ? "" : ` (probability ${p.toFixed(2)})`));
  }
  parts.push(`score ${data.score[i].toFixed(3)}`);
  if (data.verdict[i] >= 0) parts.push(`called ${data.verdicts[data.verdict[i]]}`);
  if (ticks.has(i)) parts.push(`ticked ${ticks.get(i)}`);
  return parts.join(", ");
}

function fill(tile, i) {
  tile.className = `tile ${data.verdicts[data.verdict[i]] || ""}`;
  tile.classList.toggle("current", i === current);
  tile.tabIndex = i === current || (current < 0 && i === shown[0]) ? 0 : -1;
  tile.setAttribute("aria-label", `${data.path[i]}, ${words(i)}`);
  for (const button of tile.querySelectorAll("button"))
    button.setAttribute("aria-pressed", ticks.get(i) === button.dataset.origin);
}

function make(i) {
  const tile = $("tile").content.firstElementChild.cloneNode(true);
  const [image, score] = tile.children;
  picture(image, i, SIDE);
  image.style.width = image.style.height = `${WIDE}px`;
  const name = data.class[i] >= 0 ? ` ${data.classes[data.class[i]]}` : "";
  score.textContent = data.score[i].toFixed(3) + name;
  tile.title = data.path[i];
  tile.style.width = `${WIDE}px`;
  tile.dataset.position = i;
  fill(tile, i);
  return tile;
}

// The positions in `shown` of the tiles that exist: also below the screen two rows, for
// the tabulator key.
function near() {
  const top = grid.getBoundingClientRect().top, step = HIGH + GAP;
  const first = Math.max(0, Math.floor(-top / step) - 2);
  const end = Math.max(first, Math.ceil((innerHeight - top) / step)) + 2;
  return [first * columns, Math.min(end * columns, shown.length)];
}

function remove(i, tile) {
  tile.remove();
  tiles.delete(i);
}

function draw() {
  const [first, end] = near();
  const drawn = new Set(shown.slice(first, end));
  for (const [i, tile] of tiles) if (!drawn.has(i)) remove(i, tile);
  for (let n = first; n < end; n++) {
    const i = shown[n];
    if (!tiles.has(i)) {
      tiles.set(i, make(i));
      grid.append(tiles.get(i));
    }
    const style = tiles.get(i).style;
    style.left = `${(n % columns) * (WIDE + GAP)}px`;
    style.top = `${Math.floor(n / columns) * (HIGH + GAP)}px`;
  }
}

function layOut() {
  columns = Math.max(1, Math.floor((grid.clientWidth + GAP) / (WIDE + GAP)));
  grid.style.height = `${Math.ceil(shown.length / columns) * (HIGH + GAP)}px`;
  draw();
}

function select() {
  const verdict = $("verdict").value, name = $("class").value, origin = $("ticks").value;
  const keys = {
    synthetic: (i) => -data.score[i],
    real: (i) => data.score[i],
    border: (i) => Math.abs(data.score[i] - data.border),
  };
  const key = keys[$("order").value];
  shown = [...data.path.keys()].filter(
    (i) =>
      (verdict === "" || data.verdict[i] === Number(verdict)) &&
      (name === "" || data.class[i] === Number(name)) &&
      (origin === "" || (ticks.get(i) || "none") === origin)
  );
  shown.sort((a, b) => key(a) - key(b));
  current = -1;
  for (const [i, tile] of tiles) remove(i, tile);
  $("count").textContent = `${shown.length} of ${data.path.length} pictures`;
  showDetail();
  if (scrollY > grid.offsetTop) scrollTo(0, grid.offsetTop - $("bar").offsetHeight);
  layOut();
}

// --- one picture at a time ---------------------------------------------------------

function showDetail() {
  $("detail").hidden = current < 0;
  if (current < 0) return;
  const element = $("detail").firstElementChild;
  picture(element, current, SIDE);
  element.style.width = element.style.height = `${SIDE}px`;
  $("path").textContent = data.path[current];
  $("facts").textContent = words(current);
}

function choose(i) {
  const before = current;
  current = i;
  for (const j of [before, i, shown[0]]) if (tiles.has(j)) fill(tiles.get(j), j);
  showDetail();
}

function go(n) {
  n = Math.max(0, Math.min(shown.length - 1, n));
  choose(shown[n]);
  const top = grid.offsetTop + Math.floor(n / columns) * (HIGH + GAP);
  const above = $("bar").offsetHeight + GAP, below = $("detail").offsetHeight + GAP;
  if (scrollY > top - above) scrollTo(0, top - above);
  else if (scrollY + innerHeight < top + HIGH + below) scrollTo(0, top + HIGH + below - innerHeight);
  draw();
  tiles.get(current).focus({ preventScroll: true });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || current < 0) return;
  if (event.target.closest("select, summary")) return;
  const at = shown.indexOf(current);
  const screen = columns * Math.max(1, Math.floor(innerHeight / (HIGH + GAP)) - 1);
  const to = {
    ArrowLeft: at - 1,
    ArrowRight: at + 1,
    ArrowUp: at - columns,
    ArrowDown: at + columns,
    PageUp: at - screen,
    PageDown: at + screen,
    Home: 0,
    End: shown.length - 1,
  }[event.key];
  const origins = { r: "real", s: "synthetic", x: null, delete: null, backspace: null };
  const key = event.key.toLowerCase();
  if (to !== undefined) go(to);
  else if (key in origins) {
    tick(current, origins[key]);
    if (origins[key]) go(at + 1);
  } else return;
  event.preventDefault();
}

// --- the beginning -----------------------------------------------------------------

document.body.classList.toggle("pixels", data.side <= 48);
data.verdicts.forEach((name, k) => {
  if (data.verdict.includes(k)) $("verdict").add(new Option(name, k));
});
data.classes.forEach((name, k) => $("class").add(new Option(name, k)));
$("verdict").parentElement.hidden = !data.verdict.some((k) => k >= 0);
$("class").parentElement.hidden = data.classes.length === 0;
grid.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (!tile) return;
  const i = Number(tile.dataset.position), origin = event.target.dataset.origin;
  choose(i);
  tile.focus({ preventScroll: true });
  if (origin) tick(i, ticks.get(i) === origin ? null : origin);
});
grid.addEventListener("focusin", (event) => {
  const tile = event.target.closest(".tile");
  if (tile && Number(tile.dataset.position) !== current) choose(Number(tile.dataset.position));
});
document.addEventListener("keydown", onKey);
addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
new ResizeObserver(layOut).observe(document.body); // also when a text opens
addEventListener("beforeunload", (event) => {
  if (!isStored && ticks.size !== saved) event.preventDefault();
});
$("save").addEventListener("click", save);
for (const id of ["verdict", "class", "ticks", "order"]) $(id).addEventListener("change", select);
loadTicks();
showTicks();
select();
