"use strict";
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const KEY = "rsmatch sift " + data.id; // of the ticks that the browser stores
const GAP = 8, FRAME = 3, TEXT = 18, BUTTONS = 26; // pixels, as in the style sheet
// A small picture is enlarged by a whole factor, so that its pixels stay squares.
const SIDE = data.side <= 48 ? data.side * Math.round(96 / data.side) : 96;
const WIDE = SIDE + 2 * FRAME, HIGH = WIDE + TEXT + BUTTONS;
const ticks = new Map(); // position of a picture: its origin
const elsewhere = new Map(); // path of a picture that this page does not show: its origin
const tiles = new Map(); // position of a picture: its element on the page
const grid = $("grid");
let shown = [], columns = 1, current = -1; // shown: positions in the order of the screen
let isStored = true, isSaved = true; // in the browser, in the file

// --- ticks -------------------------------------------------------------------------

function ticked(origin) {
  const others = [...elsewhere.keys()].filter((path) => elsewhere.get(path) === origin);
  return data.path.filter((path, i) => ticks.get(i) === origin).concat(others);
}

function withStorage(use) {
  try {
    use();
  } catch (error) {
    isStored = false;
    $("note").hidden = false;
  }
}

function loadTicks() {
  const stored = JSON.parse(localStorage.getItem(KEY)) || {};
  for (const origin of ["real", "synthetic"]) {
    const paths = new Set(stored[origin]);
    data.path.forEach((path, i) => paths.delete(path) && ticks.set(i, origin));
    paths.forEach((path) => elsewhere.set(path, origin));
  }
}

function tick(i, origin) {
  if (origin) ticks.set(i, origin);
  else ticks.delete(i);
  isSaved = ticks.size === 0;
  const stored = { real: ticked("real"), synthetic: ticked("synthetic") };
  withStorage(() => localStorage.setItem(KEY, JSON.stringify(stored)));
  fill(i);
  showTicks();
  showDetail();
}

function showTicks() {
  const [real, synthetic] = [ticked("real").length, ticked("synthetic").length];
  $("ticked").textContent = `ticked: ${real} real, ${synthetic} synthetic`;
  $("save").disabled = real + synthetic === 0;
}

function quoted(text) {
  return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function save() {
  const lines = ["path,origin"];
  for (const origin of ["real", "synthetic"])
    for (const path of ticked(origin)) lines.push(`${quoted(path)},${origin}`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = "origins.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  isSaved = true;
}

// --- the grid: only the tiles near the screen exist --------------------------------

function paint(element, i) {
  const each = data.columns * data.columns, place = i % each; // in its sprite
  const x = place % data.columns, y = Math.floor(place / data.columns);
  element.className = `picture sprite-${Math.floor(i / each)}`;
  element.style.width = element.style.height = `${SIDE}px`;
  element.style.backgroundSize = `${data.columns * SIDE}px auto`;
  element.style.backgroundPosition = `${-x * SIDE}px ${-y * SIDE}px`;
}

function words(i) {
  const parts = [`score ${data.score[i].toFixed(3)}`], p = data.probability[i];
  const sure = p === null ? "" : ` (probability ${p.toFixed(2)})`;
  if (data.class[i]) parts.unshift(data.class[i] + sure);
  if (data.verdict[i]) parts.push(`called ${data.verdict[i]}`);
  if (ticks.has(i)) parts.push(`ticked ${ticks.get(i)}`);
  return parts.join(", ");
}

function make(i) {
  const tile = $("tile").content.firstElementChild.cloneNode(true);
  paint(tile.children[0], i);
  const text = `${data.score[i].toFixed(3)} ${data.class[i]}`;
  tile.children[1].textContent = tile.children[1].title = text;
  tile.title = data.path[i];
  tile.style.width = `${WIDE}px`;
  tile.dataset.position = i;
  return tile;
}

function fill(i) {
  const tile = tiles.get(i);
  if (!tile) return;
  tile.className = `tile ${data.verdict[i]}`;
  tile.classList.toggle("current", i === current);
  tile.tabIndex = i === current || (current < 0 && i === shown[0]) ? 0 : -1;
  tile.setAttribute("aria-label", `${data.path[i]}, ${words(i)}`);
  for (const button of tile.querySelectorAll("button"))
    button.setAttribute("aria-pressed", ticks.get(i) === button.dataset.origin);
}

function draw() {
  const top = grid.getBoundingClientRect().top, step = HIGH + GAP;
  // Two rows more on either side, for the tabulator key.
  const first = Math.max(0, Math.floor(-top / step) - 2);
  const end = Math.max(first, Math.ceil((innerHeight - top) / step)) + 2;
  const near = new Set(shown.slice(first * columns, end * columns));
  for (const [i, tile] of tiles) {
    if (near.has(i)) continue;
    tile.remove();
    tiles.delete(i);
  }
  let n = first * columns;
  for (const i of near) {
    if (!tiles.has(i)) {
      tiles.set(i, grid.appendChild(make(i)));
      fill(i);
    }
    tiles.get(i).style.left = `${(n % columns) * (WIDE + GAP)}px`;
    tiles.get(i).style.top = `${Math.floor(n++ / columns) * step}px`;
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
      (verdict === "" || data.verdict[i] === verdict) &&
      (name === "" || data.class[i] === name) &&
      (origin === "" || (ticks.get(i) || "none") === origin)
  );
  shown.sort((a, b) => key(a) - key(b));
  current = -1;
  grid.replaceChildren();
  tiles.clear();
  $("count").textContent = `${shown.length} of ${data.path.length} pictures`;
  showDetail();
  if (scrollY > grid.offsetTop) scrollTo(0, grid.offsetTop - $("bar").offsetHeight);
  layOut();
}

// --- one picture at a time ---------------------------------------------------------

function showDetail() {
  $("detail").hidden = current < 0;
  if (current < 0) return;
  paint($("detail").firstElementChild, current);
  $("path").textContent = data.path[current];
  $("facts").textContent = words(current);
}

function choose(i) {
  const before = current;
  current = i;
  for (const j of [before, i, shown[0]]) fill(j);
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
  if (!isStored && !isSaved) event.preventDefault();
});
$("save").addEventListener("click", save);
for (const id of ["verdict", "class", "ticks", "order"]) $(id).addEventListener("change", select);
withStorage(loadTicks);
showTicks();
select();
