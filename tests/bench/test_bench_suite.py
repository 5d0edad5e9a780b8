"""The suite of benches, its processes, and the page's tables."""

import json
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from rsmatch_jax import files
from rsmatch_jax.bench import __main__ as bench
from rsmatch_jax.bench import record_tables, suite
from rsmatch_jax.bench.harness import child, command_line
from rsmatch_jax.runtime import child as processes

ROOT = pathlib.Path(__file__).parents[2]
FIGURE = {"unit": "x", "must": 1, "goal": None, "holds": True, "spread": None}


def document(**figures):
    """A part's JSON with values of figures."""
    device = {"platform": "cpu", "kind": "cpu", "cpu": "Abacus", "cores": 2}
    content = {"device": device, "versions": {"jax": "1.0"}, "rows": []}
    content |= {"preset": "cpu", "precision": "float32"}
    figures = {k: {**FIGURE, "value": v} for k, v in figures.items()}
    return {**content, "figures": figures}


def test_a_child_is_killed_with_all_it_has_started(monkeypatch):
    """When its time is up; its own child holds the other end of the pipe."""
    read, write = os.pipe()
    program = "import subprocess as s, sys; s.run([sys.executable, '-c', 'input()'])"
    command = [sys.executable, "-c", program]
    waits = {"pass_fds": [write], "stdin": os.pipe()[0]}  # never written to
    popen = subprocess.Popen
    monkeypatch.setattr(
        processes.subprocess, "Popen", lambda _, **kw: popen(command, **{**kw, **waits})
    )
    begin = time.monotonic()
    assert child.run("step", [], seconds=1.0) == -9
    assert time.monotonic() - begin < 30
    os.close(write)
    # The end of the file, once nobody holds the other end.
    assert select.select([read], [], [], 30)[0] and os.read(read, 1) == b""


@pytest.fixture
def parts(monkeypatch):
    """Parts that do what a test wants: {name: exit code or document}."""
    outcomes, seen = {}, []

    def run(name, flags, *, environment, seconds):
        seen.append((name, list(flags), dict(environment), seconds))
        outcome = outcomes.get(name, document())
        if isinstance(outcome, int):
            return outcome
        out = next(f for f in flags if f.startswith("--out=")).removeprefix("--out=")
        files.write_json(out, outcome)
        return 0

    monkeypatch.setattr(suite.child, "run", run)
    return outcomes, seen


def test_all_parts_are_run_and_merged(parts, tmp_path, capsys):
    outcomes, seen = parts
    outcomes["queue"] = document(C5=3.0)
    outcomes["augment"] = document(C1=5.0, C2=1.1)
    out = tmp_path / "all.json"
    flags = ["--config.seed=3", f"--out={out}"]  # the preset follows the device
    assert bench.main(["suite", *flags]) == 0
    assert [name for name, *_ in seen] == list(suite.PARTS["cpu"])
    for _, words, environment, seconds in seen:
        assert {"--preset=cpu", "--config.seed=3"} < set(words)
        assert f"--out={out}" not in words and not environment and seconds == 1200
    written = json.loads(out.read_text())
    assert list(written["figures"]) == ["C1", "C2", "C5"]
    assert written["figures"]["C5"]["value"] == 3
    assert set(written["parts"]) == {name for name, *_ in seen}
    assert written["command"].startswith("python -m rsmatch_jax.bench suite --preset")
    assert {row["outcome"] for row in written["rows"]} == {"measured"}
    assert "| C5 " in capsys.readouterr().out


def test_every_bench_is_a_part_and_its_limits_are_known():
    """Except those that are no figures of one machine, or that have other limits."""
    others = {"suite", "records", "predict", "compiled", "correct", "first"}
    names = set(bench.BENCHES) - others
    assert set(suite.PARTS["gpu"]) <= set(suite.PARTS["cpu"]) == names
    ids = {name.split("_")[0] for name in suite.limits()}
    assert {f"C{i}" for i in range(1, 12)} | {f"G{i}" for i in range(1, 11)} <= ids


def test_a_part_that_fails_takes_nothing_with_it(parts, tmp_path, capsys):
    outcomes, _ = parts
    outcomes |= {"roofline": 1, "flags": -11, "queue": document(C5=3.0), "peer": 2}
    out = tmp_path / "all.json"
    assert bench.main(["suite", "--preset=cpu", f"--out={out}"]) == 1
    written = json.loads(out.read_text())
    outcome = {row["row"]: row["outcome"] for row in written["rows"]}
    assert outcome["roofline"] == "failed" and "killed" in outcome["flags"]
    assert outcome["input"] == "measured" and list(written["figures"]) == ["C5"]
    assert outcome["peer"] == "refused the request", "that is no failure"
    error = capsys.readouterr().err
    assert "roofline, flags failed" in error and "Traceback" not in error


def test_a_request_that_the_first_part_refuses(parts, capsys):
    outcomes, _ = parts
    outcomes["roofline"] = 2
    assert bench.main(["suite", "--preset=cpu"]) == 2
    assert "bench roofline refuses the request" in capsys.readouterr().err


def test_a_suite_that_is_ended_ends_its_part(tmp_path):
    """Also a part that ignores everything."""
    read, write = os.pipe()
    program = f"""
    import subprocess, sys
    from rsmatch_jax.bench import __main__ as bench
    from rsmatch_jax.runtime import child
    popen = subprocess.Popen
    asleep = [sys.executable, "-c", "import time; print('asleep'); time.sleep(600)"]
    child.subprocess.Popen = lambda command, **kw: popen(
        [asleep[0], "-u", *asleep[1:]], pass_fds=[{write}], **kw
    )
    bench.main(["suite", "--preset=cpu"])
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    options = {"cwd": ROOT, "pass_fds": [write], "text": True}
    suite_ = subprocess.Popen(command, stdout=subprocess.PIPE, **options)
    os.close(write)
    while "asleep" not in suite_.stdout.readline():
        pass
    suite_.send_signal(signal.SIGTERM)
    assert suite_.wait(30) == 128 + signal.SIGTERM
    assert select.select([read], [], [], 30)[0] and os.read(read, 1) == b""


def test_time_is_shared_out_on_a_gpu(parts, monkeypatch, tmp_path):
    """Each part takes 60 of 530 s: the ninth has less, later ones are left out."""
    outcomes, seen = parts
    run, now = suite.child.run, [0.0]

    def slow(*args, **kw):
        now[0] += 60.0
        return run(*args, **kw)

    monkeypatch.setattr(suite.child, "run", slow)
    monkeypatch.setattr(suite.time, "monotonic", lambda: now[0])
    out = tmp_path / "all.json"

    def left_out(code):
        now[0] = 0.0
        assert bench.main(["suite", "--preset=gpu", f"--out={out}"]) == code
        rows = json.loads(out.read_text())["rows"]
        return [r["row"] for r in rows if "left out" in r["outcome"]]

    names = list(suite.PARTS["gpu"])
    assert left_out(0) == names[9:]
    assert [name for name, *_ in seen] == names[:9]
    assert seen[8][3] == 530 - 8 * 60
    assert len({e["JAX_COMPILATION_CACHE_DIR"] for _, _, e, _ in seen}) == 1
    # Killed when all time was up is no failure; killed for its own time is one.
    outcomes[names[8]] = -signal.SIGKILL
    assert left_out(0) == names[8:]
    outcomes[names[0]] = -signal.SIGKILL
    left_out(1)


def test_figures_of_several_parts():
    """By hand: 125 steps/s of 16.1 GB are 2.0 of 4.0 TB/s."""
    loop, queue, roofline = document(G1=125.0, G2=142.0, G4=0.8), document(), document()
    loop["rows"] = [{"row": "rsmatch", "ms": 10.0}]
    for k, ms in ((10, 0.02), (1000, 0.04)):
        queue["rows"] += [{"row": f"push K={k}", "ms": ms}]
        queue["rows"] += [{"row": f"sample K={k}", "ms": 0.02}]
    roofline["rows"] = [
        {"part": "copy", "large": True, "bytes_per_second": 4.025e12},
        {"part": "matmul", "dtype": "bfloat16", "flops_per_second": 790e12},
    ]
    figures = suite.combined({"loop": loop, "queue": queue, "roofline": roofline})
    values = {name: figure["value"] for name, figure in figures.items()}
    assert values == pytest.approx(
        {"G2_share": 142 / 790, "G3": 0.5, "G6_K10": 0.004, "G6_K1000": 0.006}
    )
    assert suite.combined({"loop": document(), "queue": queue}) == {}
    loop["figures"]["G1"]["value"] = None  # it was nan
    assert suite.combined({"loop": loop, "queue": queue, "roofline": roofline}) == {}


@pytest.fixture
def folder(tmp_path):
    """benchmarks/ with two runs, and a page with the marks."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "page.md").write_text(
        f"before\n{record_tables.BEGIN}\nold\n{record_tables.END}\nafter\n"
    )
    for name, value in (("a", 2.0), ("b", 5.0)):
        content = document(C5=value)
        content["figures"]["C5"] |= {"spread": [1.0, 6.0]}
        content["command"] = f"python -m {name}"
        content["device"]["load"] = 0.1
        files.write_json(str(tmp_path / "benchmarks" / f"{name}.json"), content)
    return tmp_path


def test_the_page_gets_its_tables(folder, capsys):
    page = folder / "page.md"
    flags = [f"--folder={folder}/benchmarks", f"--page={page}"]
    assert bench.main(["records", *flags]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "old" not in text
    cells = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    }
    # The last file's, set in bold for it misses its limit.
    assert cells["C5"][1:] == ["**5.00 (1.00 to 6.00)**", "<= 4", "<= 2"]
    assert cells["G1"][1:] == ["not yet measured", ">= 100", ">= 160"]
    assert set(cells) >= set(suite.limits())
    assert "2 cores of Abacus, jax 1.0" in text and "`python -m b`" in text
    assert bench.main(["records", *flags]) == 0
    assert page.read_text() == text, "a second time changes something"

    # A GPU's file fills the GPU's table alone, even with figures that both have.
    gpu = document(G1=150.0, memory_host_mb=1500.0)
    gpu |= {"command": "python -m c", "device": {"platform": "gpu", "kind": "H"}}
    gpu["device"]["load"] = 1.0
    files.write_json(str(folder / "benchmarks" / "c.json"), gpu)
    assert bench.main(["records", *flags]) == 0
    on_cpu, on_gpu = page.read_text().split("**On a GPU**")
    assert "1,500" in on_gpu and "1,500" not in on_cpu
    assert re.search(r"G1 .* 150 ", on_gpu) and "5.00 (1.00" in on_cpu
    assert "step_flexmatch" in on_gpu and "step_flexmatch" in on_cpu


def test_a_figure_that_was_nan_misses_its_limit(folder):
    figure = suite.limits()["C4"].figure(float("nan"))
    path = str(folder / "benchmarks" / "b.json")
    content = {**files.read_json(path), "figures": {"C4": figure}}
    files.write_json(path, files.plain(content))
    text = record_tables.write(f"{folder}/benchmarks", f"{folder}/page.md")
    (line,) = [x for x in text.splitlines() if x.startswith("| C4 ")]
    assert "**-**" in line


def test_a_preset_of_the_suite_measures_every_figure_of_its_table():
    benches_ = {module.BENCH.name: module.BENCH for module in suite.MODULES}
    for kind, preset in (("C", "cpu"), ("G", "gpu")):
        table = record_tables.figure_table({}, kind, [])
        names = {line.split("|")[1].strip() for line in table.splitlines()[2:]}
        of_parts = [benches_[part].limits for part in suite.PARTS[preset]]
        measured = set(suite.COMBINED).union(*of_parts)
        assert len(names) > 20 and not names - measured, preset


def program(method, key, devices, floor, estimate):
    part = {"floor_ms": floor / 10, "estimate_ms": estimate / 5}
    return {
        "target": {"key": key, "devices": devices, "name": "N"},
        "method": method,
        "network": "wrn_28_2",
        "precision": "bfloat16",
        "labelled": 64,
        "unlabelled": 448,
        "input": "resident",
        "totals": {
            "kernels": 300.0,
            "bytes": 14e9,
            "conv_gflop": 1000.0,
            "floor_ms": floor,
            "estimate_ms": estimate,
        },
        "scopes": {"views": part, "queue": part},
        "collectives": {"count": 3.0},
    }


def test_compiled_programs_get_a_column_and_a_table(folder):
    """Beside the measured figures, those of one H100 and of no other device."""
    programs = [
        program("fixmatch", "h100", 1, 4.0, 8.0),
        program("rsmatch", "h100", 1, 5.0, 10.0),
        program("fixmatch", "h100", 8, 1.0, 2.0),
        program("fixmatch", "h200", 1, 2.0, 4.0),
        # Not what the limits are for.
        program("rsmatch", "h100", 1, 9.0, 9.0) | {"network": "resnet50"},
        program("fixmatch", "h100", 1, 9.0, 9.0) | {"input": "tfdata", "scopes": {}},
        program("fixmatch", "h100", 1, 9.0, 9.0) | {"labelled": 32},
    ]
    content = {"bench": "compiled", "command": "python -m d", "programs": programs}
    content["versions"] = {"jax": "1.0"}
    files.write_json(str(folder / "benchmarks" / "d.json"), content)
    text = record_tables.write(f"{folder}/benchmarks", f"{folder}/page.md")
    on_cpu, on_gpu = text.split("**On a GPU**")
    assert "compiled for" not in on_cpu
    cells = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in on_gpu.splitlines()
        if line.startswith("|")
    }
    assert cells["figure"][1] == "compiled for one h100: floor, estimate"
    compiled = {name: cells[name][1] for name in ("G1", "G2", "G4", "G5", "G6_K10")}
    assert compiled == {
        "G1": "250.00, 125.00",
        "G2": "250.00, 125.00",
        "G4": "0.80, 0.80",
        "G5": "0.10, 0.20",
        "G6_K10": "0.10, 0.20",
    }
    # 2^20 steps of 4 and 8 ms.
    assert cells["G9_fixmatch"][1] == "1.17, 2.33"
    assert cells["G10"][1:3] == ["-", "not yet measured"]
    eight = next(x for x in on_gpu.splitlines() if "8 h100" in x)
    assert [c.strip() for c in eight.split("|")[3:-1]] == [
        *("300", "14.00", "3", "1.00", "2.00", "0.29", "0.58")
    ]
    assert "compiled, not run, jax 1.0; `python -m d`" in on_gpu


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "page.md").write_text("nothing"), "lacks the lines"),
        (lambda f: (f / "page.md").unlink(), "cannot be read"),
        (lambda f: (f / "benchmarks/a.json").write_text("{"), "a.json cannot be read"),
        (lambda f: (f / "benchmarks/a.json").write_text("{}"), "it lacks command"),
    ],
)
def test_what_is_no_record_is_named(folder, damage, words, capsys):
    damage(folder)
    flags = [f"--folder={folder}/benchmarks", f"--page={folder}/page.md"]
    assert bench.main(["records", *flags]) == 2
    assert words in capsys.readouterr().err


def test_the_page_has_the_tables_of_the_files():
    """If not, run `python -m rsmatch_jax.bench records`."""
    page = ROOT / "docs/performance.md"
    assert record_tables.write(str(ROOT / "benchmarks"), str(page)) == page.read_text()


def test_an_interrupted_suite_says_where_its_parts_are(monkeypatch, capsys):
    def interrupted(*args, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(suite.child, "run", interrupted)
    assert bench.main(["suite", "--preset=cpu"]) == 1
    printed = capsys.readouterr().err
    assert "--out, if given, has the parts" in printed and "nothing" not in printed


def test_flags_are_left_out_with_their_values():
    words = ["--out=a.json", "-preset", "cpu", "--config.seed=1", "--outer=2"]
    words += ["-out", "x"]
    words = command_line.without(words, "out", "preset")
    assert words == ["--config.seed=1", "--outer=2"]
