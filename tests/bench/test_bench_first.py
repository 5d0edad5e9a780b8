"""The command for a short time with a GPU: order, time, folder and page."""

import json

import pytest
from support import benches, xla_flags
from test_bench_suite import document

from rsmatch_jax import files
from rsmatch_jax.bench import __main__ as bench
from rsmatch_jax.bench import first, first_page, first_runs
from rsmatch_jax.bench.harness import machine

BENCHES = list(first.PARTS)[:-1]
GPU = {"kind": "NVIDIA H200", "platform": "gpu", "cpu": "Abacus", "cores": 16}


@pytest.fixture
def parts(monkeypatch):
    """Parts of an H200 that take 30 s, at once. outcomes: {part: figures or exit code,
    with a line of its output}; seen: (part, words, seconds, options) of those begun."""
    outcomes, seen, now, here = {}, [], [1000.0], {"device": dict(GPU)}
    here["versions"] = {"jax": "1.0"}

    def run(command, *, stdout, stderr, seconds, **options):
        name = command[3] if command[2] == "rsmatch_jax.bench" else first_runs.SWEEP
        assert stdout is stderr
        seen.append((name, command[3:], seconds, options))
        outcome, *line = outcomes.get(name, ({},))
        stdout.write("\n".join(line))
        if outcome is KeyboardInterrupt:
            raise outcome
        now[0] += min(30.0, seconds)
        if seconds < 30.0:
            return -9
        if isinstance(outcome, int):
            return outcome
        content = document(**outcome)
        if name == "roofline":
            copies = {"part": "copy", "large": True, "bytes_per_second": 4.025e12}
            content["rows"] = [copies]
        if name == "compiled":
            totals = {"kernels": 400, "bytes": 16e9, "floor_ms": 3.5}
            content["programs"] = [{"method": "rsmatch", "totals": totals}]
        if name != first_runs.SWEEP:
            out = next(w for w in command if w.startswith("--out="))
            files.write_json(out.removeprefix("--out="), content)
        return 0

    monkeypatch.setattr(first.child, "run", run)
    monkeypatch.setattr(first.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(machine, "in_child", lambda: json.loads(json.dumps(here)))
    monkeypatch.setattr(first.Session, "_missing", lambda self, name: None)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/cache")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    return outcomes, seen, here


def start(folder, *flags):
    return bench.main(["first", f"--resume={folder}", *flags])


def read(folder):
    content = json.loads((folder / first.CONTENT).read_text())
    outcomes = {row["row"]: row["outcome"] for row in content["rows"]}
    return content, outcomes, (folder / first.PAGE).read_text()


def test_the_most_important_first_as_far_as_time_goes(parts, tmp_path, capsys):
    """Of 110 s three parts get 30 each, the next is stopped after 20, others have too
    little. Then the command goes on without what is there."""
    outcomes, seen, _ = parts
    outcomes["loop"] = ({"G1": 80.0},)
    flags = ["--config.seed=3", "--preset=gpu"]
    assert start(tmp_path, f"--minutes={(110 + first.CLOSING) / 60}", *flags) == 75
    assert [name for name, *_ in seen] == BENCHES[:4]
    content, outcome, _ = read(tmp_path)
    assert [outcome[name] for name in BENCHES[:3]] == ["measured"] * 3
    assert outcome["queue"] == "left: its time was up"
    assert outcome["peer"] == "left: it needs 40 s"
    assert content["figures"]["G1"]["value"] == 80
    assert content["minutes"] == pytest.approx(110 / 60)
    printed = capsys.readouterr()
    assert "left: queue, profile" in printed.err
    assert "the same command continues" in printed.err and "| G1 " in printed.out
    name, words, seconds, options = seen[1]
    assert (name, seconds) == ("loop", pytest.approx(80))
    cached = {"JAX_COMPILATION_CACHE_DIR": "/cache"}
    assert options == {"environment": {**cached, "JAX_PLATFORMS": "cuda,cpu"}}
    assert {"--config.seed=3", "--preset=gpu", f"--seconds={seconds / 2}"} < set(words)

    del seen[:]
    assert start(tmp_path, "--minutes=60", *flags) == 0
    assert [name for name, *_ in seen] == [*BENCHES[3:], "sweep"]
    content, outcome, page = read(tmp_path)
    assert set(outcome.values()) == {"measured"}
    assert content["figures"]["G3"]["value"] == pytest.approx(16.1e9 * 80 / 4.025e12)
    assert set(content["parts"]) == set(BENCHES) and "goes on with" not in page
    assert content["minutes"] == pytest.approx((110 + 30 * 5) / 60)
    (_, words, _, options), (_, sweep, seconds, patience) = seen[-2:]
    assert {"--target=h200", "--method=fixmatch,rsmatch"} < set(words)
    assert options == {"environment": {**cached, "JAX_PLATFORMS": "cpu"}}
    assert {"--config.seed=3", "--config.checkpoint.keep=1"} < set(sweep)
    assert sweep[0] == "cifake" and f"--out={tmp_path}/sweep" in sweep
    minutes = float(sweep[1].removeprefix("--minutes="))
    assert 60 * minutes == pytest.approx(seconds - first.SAVING)
    assert patience == {"patience": first.PATIENCE, "environment": cached}

    del seen[:]
    assert start(tmp_path, "--minutes=60", *flags) == 0 and not seen


def test_a_cut_leaves_all_that_was_finished(parts, tmp_path):
    """By Ctrl-C or SIGTERM, and by a kill before a part's outcome was noted."""
    outcomes, seen, _ = parts
    outcomes["roofline"] = (KeyboardInterrupt,)
    assert start(tmp_path) == 75
    _, outcome, page = read(tmp_path)
    assert [outcome[name] for name in BENCHES[:2]] == ["measured"] * 2
    assert outcome["roofline"] == outcome["sweep"] == "left: not begun"
    assert "--resume=" in page and "goes on with roofline, queue" in page
    files.write_json(str(tmp_path / "roofline.json"), document())
    del seen[:]
    assert start(tmp_path, "--minutes=60") == 0
    assert [name for name, *_ in seen] == [*BENCHES[3:], "sweep"]


def test_failures_and_what_is_missing(parts, tmp_path, capsys):
    """A failure is tried again, after all others but the sweep. What this machine lacks
    is no failure."""
    outcomes, seen, _ = parts
    outcomes["loop"] = (1, "Traceback", "ValueError: no", "error: failed, see above")
    outcomes["peer"] = (1, "ModuleNotFoundError: No module named 'flax'", "bye")
    outcomes["profile"] = (2, "error: --config.x: no")
    outcomes["queue"] = (-11,)
    outcomes["sweep"] = (75,)
    assert start(tmp_path, "--minutes=60") == 75
    _, outcome, page = read(tmp_path)
    assert outcome["loop"] == "failed: ValueError: no; see loop.log"
    assert outcome["peer"].startswith("not measured: ModuleNotFoundError: No module")
    assert outcome["profile"] == "not measured: error: --config.x: no; see profile.log"
    assert outcome["queue"] == "failed: exit code -11; see queue.log"
    assert outcome["sweep"] == "left: its time was up"
    assert "Mend: loop, queue;" in page and "missing for: profile, peer;" in page
    outcomes["sweep"] = outcomes["peer"] = ({},)
    del seen[:]
    assert start(tmp_path, "--minutes=60") == 1
    assert [n for n, *_ in seen] == ["profile", "peer", "loop", "queue", "sweep"]
    assert "failed: loop, queue" in capsys.readouterr().err


def test_a_folder_is_of_one_device_and_request(parts, tmp_path, capsys):
    _, seen, here = parts
    assert start(tmp_path, "--minutes=60") == 0
    for change, flags, words in (
        (lambda: None, ["--sweep=digits"], ["--sweep=cifake", "--sweep=digits"]),
        (lambda: None, ["--config.seed=1"], ["--config.seed=1"]),
        (lambda: here["versions"].update(jax="2.0"), [], ["jax 1.0", "jax 2.0"]),
        (lambda: here["device"].update(kind="other"), [], ["NVIDIA H200", "other"]),
    ):
        change()
        assert start(tmp_path, *flags) == 2
        printed = capsys.readouterr().err
        assert all(word in printed for word in [f"--resume={tmp_path}", *words])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").touch()
    assert start(tmp_path / "new") == 2
    assert "is not empty" in capsys.readouterr().err
    assert len(seen) == len(first.PARTS)


def checkpoint(folder, run, step, size):
    path = folder / "sweep" / run / "seed0" / "checkpoints" / str(step)
    path.mkdir(parents=True)
    (path / "state").write_bytes(bytes(size))
    return path


def test_the_folder_stays_small(parts, tmp_path, monkeypatch, capsys):
    """Of a finished run no checkpoint stays, of others the newest if they fit."""
    gone = [checkpoint(tmp_path, "a", 5, 9), checkpoint(tmp_path, "b", 9, 100)]
    stays, larger = (checkpoint(tmp_path, *x) for x in (("b", 10, 70), ("c", 3, 80)))
    for name, status in (("a", "finished"), ("b", "stopped")):
        result = {"status": status, "steps": 10, "test_accuracy_best": 0.5}
        files.write_json(f"{tmp_path}/sweep/{name}/seed0/result.json", result)
    small = sum(f.stat().st_size for f in tmp_path.rglob("result.json"))
    assert first_runs.trim(str(tmp_path), small + 150) == small + 150
    assert not any(path.exists() for path in gone) and larger.exists()
    assert first_runs.trim(str(tmp_path), small + 149) == small + 70
    assert stays.exists() and not larger.exists()
    runs = first_runs.results(str(tmp_path))
    assert [row["run"] for row in runs] == ["a/seed0", "b/seed0", "c/seed0"]
    assert [row["status"] for row in runs] == ["finished", "stopped", None]
    assert runs[1]["steps"] == 10 and runs[1]["test_accuracy_best"] == 0.5
    # What is not of this command is not removed.
    other = tmp_path / "other"
    assert start(other, "--minutes=60") == 0
    (other / "mine.bin").write_bytes(bytes(3_000_000))
    monkeypatch.setattr(first, "LIMIT", 2e6)
    assert start(other) == 2
    assert "holds 3 MB, more than 2;" in capsys.readouterr().err


def test_the_page_says_what_was_measured_and_what_to_do(parts, tmp_path):
    outcomes, *_ = parts
    outcomes["loop"] = ({"G1": 80.0, "correct_repeat": 0.5, "C5": 9.0},)
    assert start(tmp_path, "--minutes=60") == 0
    loop = json.loads((tmp_path / "loop.json").read_text())
    for figure in loop["figures"].values():
        figure["holds"] = False
    loop["rows"] = [{"row": "rsmatch", "ms": 7.25, "steps_per_dispatch": 16}]
    files.write_json(str(tmp_path / "loop.json"), loop)
    profile = {"row": "rsmatch", "classes": {"convolution": 3.5, "loss": 0.25}}
    files.write_json(str(tmp_path / "profile.json"), {"rows": [profile]})
    assert start(tmp_path, "--minutes=60") == 0
    _, _, page = read(tmp_path)
    assert "# First measurements on NVIDIA H200" in page
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page.splitlines()
        if "|" in line
    ]
    assert ["rsmatch", "400", "16,000.000", "3.500", "-", "7.250"] in rows
    assert ["convolution", "3.500"] in rows
    by_id = {row[0]: row for row in rows}
    assert by_id["G1"][2:4] == ["**80**", ">= 100"]
    assert by_id["G10"][2] == "not measured"
    for name, advice in (("G1", "bench flags"), ("correct_repeat", "deterministic")):
        (line,) = [x for x in page.splitlines() if x.startswith(f"- {name} misses")]
        assert advice in line
    assert "to benchmarks/" in page
    assert page.index("- correct_repeat misses") < page.index("- G1 misses")
    assert page.index("| correct_repeat |") < page.index("| G1 ")


def test_commands_to_copy_quote_a_folder_with_blanks():
    rows = [{"row": "sweep", "seconds": 1.0, "outcome": "left: time"}]
    content = {"figures": {}, "parts": {}, "rows": rows, "runs": [{"run": "a"}]}
    content |= {"command": "bench first", "folder": "/my runs", "minutes": 1.0}
    content |= {"versions": {"jax": "1"}, "device": {"kind": "H", "cores": 2}}
    content["device"]["cpu"] = "Abacus"
    page = first_page.page(content)
    assert "`bench first --resume='/my runs'` goes on" in page
    assert f"`rsmatch report '/my runs/{first.SWEEP}'` compares" in page


def test_really_cut_moved_and_taken_up(tmp_path, monkeypatch, capsys):
    """A bench, a count that this machine cannot make, and a sweep, as processes."""
    names = ("queue", "compiled", "sweep")
    real = {name: first.PARTS[name]._replace(least=1) for name in names}
    monkeypatch.setattr(first, "PARTS", {"queue": real["queue"]})
    monkeypatch.setenv("XLA_FLAGS", xla_flags.with_devices(1))
    flags = ["--sweep=digits", *benches.small()[1:]]
    assert start(tmp_path / "a", *flags) == 0
    (tmp_path / "a").rename(tmp_path / "b")
    seconds = json.loads((tmp_path / "b" / "queue.json").read_text())["rows"][0]["ms"]

    # Too short for all runs of the sweep, if not for one.
    monkeypatch.setattr(first, "PARTS", real)
    for name in ("SAVING", "CLOSING"):
        monkeypatch.setattr(first, name, 0.5)
    assert start(tmp_path / "b", "--minutes=0.75", *flags) == 75
    content, outcome, page = read(tmp_path / "b")
    assert outcome["queue"] == "measured" and outcome["sweep"].startswith("left: ")
    assert content["parts"]["queue"]["rows"][0]["ms"] == seconds
    assert "--target=cpu: choose one of" in outcome["compiled"]
    assert f"--resume={tmp_path}/b` goes on with sweep" in page
    assert "left: sweep" in capsys.readouterr().err
