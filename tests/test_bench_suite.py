"""The suite of benches, whole steps, invariants, starts, and the README's tables."""

import json
import os
import pathlib
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsmatch_jax import feed, logbook
from rsmatch_jax.bench import __main__ as bench
from rsmatch_jax.bench import (
    child,
    invariants,
    loop,
    records,
    request,
    start,
    suite,
    workload,
)
from rsmatch_jax.bench import step as step_bench

ROOT = pathlib.Path(__file__).parent.parent
SMALL = [
    "--preset=cpu",
    "--config.model.classifier=wrn_10_1",
    "--config.train.batch_size=4",
    "--config.train.unlabeled_ratio=1",
]
FIGURE = {"unit": "x", "must": 1, "goal": None, "holds": True, "spread": None}


def asked(*flags):
    return request.parse(["bench", *SMALL, *flags])


def on_a_gpu(*flags):
    """A request as it would be on a GPU: figures ask for its platform alone."""
    real = request.parse(["bench", "--preset=gpu", *flags])
    gpu = types.SimpleNamespace(platform="gpu", device_kind="a GPU")
    return types.SimpleNamespace(config=real.config, preset="gpu", device=gpu)


def document(**figures):
    """A part's JSON with values of figures."""
    return {
        "device": {"platform": "cpu", "kind": "cpu", "cpu": "Abacus", "cores": 2},
        "versions": {"jax": "1.0"},
        "preset": "cpu",
        "precision": "float32",
        "figures": {k: {**FIGURE, "value": v} for k, v in figures.items()},
        "rows": [],
    }


# Whole steps


def test_loop_rows():
    content = loop.measure(asked(), least_seconds=0.0, rounds=1)
    rows = {row["row"]: row for row in content["rows"]}
    assert list(rows) == [
        *("fixmatch", "fixmatch, one batch", "fixmatch, bfloat16"),
        *("rsmatch", "rsmatch, one batch"),
    ]
    for row in rows.values():
        assert row["steps_per_dispatch"] == 1 and row["images_per_step"] == 12
        assert row["aliased_leaves"] == row["state_leaves"]
        assert row["tflops"] == pytest.approx(row["gflop"] / row["ms"])
    assert rows["fixmatch"]["gflop"] == rows["fixmatch, one batch"]["gflop"]
    assert content["figures"] == {}


@pytest.mark.parametrize("with_input", [True, False])
def test_turns_do_the_steps_they_are_asked_for(with_input):
    """Whatever the size of a dispatch; in a loop, as on a GPU."""
    values = {"model.classifier": "wrn_10_1", "method.name": "fixmatch"}
    exp = workload.build(asked().config, values, jax.local_devices()[0])
    if with_input:
        source = feed.ResidentFeed(exp, workload.random_task(exp), 4)
    else:
        source = loop.OneBatch(exp, 4)
    program = loop.Program(exp, source)
    for steps, most, total in ((5, 4, 5), (3, 1, 8), (2, 3, 10)):
        program.turns(most)(steps)
        assert int(program._state.step) == total == program._done


def test_figures_of_whole_steps():
    """A step of FixMatch takes 8 ms, of which 0.4 are input, RSMatch's 10."""
    seconds = {
        "fixmatch": np.full(3, 8e-3),
        "fixmatch, one batch": np.full(3, 7.6e-3),
        "rsmatch": np.array([10e-3, 9e-3, 11e-3]),
    }
    table = [{"row": "fixmatch", "gflop": 1136.0}]
    found = loop.figures(seconds, table, on_a_gpu())
    values = {name: figure["value"] for name, figure in found.items()}
    assert values == pytest.approx(
        {
            "G1": 125,
            "G2": 142,  # TFLOP/s
            "G4": 0.8,
            "G5": 0.05,
            "G9_fixmatch": 2**20 * 8e-3 / 3600,
            "G9_rsmatch": 2**20 * 10e-3 / 3600,
        }
    )
    assert all(figure["holds"] for figure in found.values())
    assert found["G4"]["spread"] == pytest.approx(
        [(8 / 11 + 0.8) / 2, (0.8 + 8 / 9) / 2]
    )
    for other in (asked(), on_a_gpu("--config.train.batch_size=32")):
        assert loop.figures(seconds, table, other) == {}


def test_operations_do_not_depend_on_how_they_are_run():
    """Counted before a backend: loops, devices and dtypes change nothing."""
    values = {"model.classifier": "wrn_10_1", "method.name": "fixmatch"}
    device = jax.local_devices()[0]
    one = workload.gflop(workload.build(asked().config, values, device))
    assert one == pytest.approx(
        step_bench.measure(
            asked(), {"fixmatch": step_bench.ROWS["fixmatch"]}, rounds=1
        )["rows"][0]["gflop"],
        rel=0.03,
    )


# Invariants


def test_convolutions_in_loops_are_found():
    x, w = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 4))

    def conv(x):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def looped(x, n):
        return jax.lax.fori_loop(0, n, lambda _, x: jnp.tanh(conv(conv(x))), x)

    def below(x, n):  # a branch within a loop
        def turn(i, x):
            return jax.lax.cond(i > 2, conv, jnp.tanh, x)

        return jax.lax.fori_loop(0, n, turn, x)

    def beside(x, n):
        return jax.lax.fori_loop(0, n, lambda _, x: jnp.tanh(x), conv(x))

    for program, count in ((looped, 2), (below, 1), (beside, 0)):
        hlo = jax.jit(program).lower(x, 5).compile().as_text()
        assert invariants.convolutions_in_loops(hlo) == count, program


def test_compilations_are_counted():
    double = jax.jit(lambda x: 2 * x + 1)
    short, long = (jax.device_put(np.ones(n, np.float32)) for n in (3, 4))
    double(short)
    with invariants.compilations() as seen:
        double(short)
        assert not seen
        double(long)
        assert len(seen) == 1
    jax.jit(lambda x: 3 * x)(short)
    assert len(seen) == 1, "counted beyond its block"


def test_invariants_of_the_real_step(monkeypatch):
    """All limits hold over a few steps, an end of an epoch among them."""
    sizes = {**invariants.SIZES, "train.batch_size": 4, "train.unlabeled_ratio": 1}
    monkeypatch.setattr(invariants, "SIZES", sizes)
    monkeypatch.setattr(invariants, "STEPS", 2)
    monkeypatch.setattr(invariants, "FIRST", 1021)
    monkeypatch.setattr(invariants, "COUNTED", 5)
    content = invariants.measure(asked())
    figures = content["figures"]
    assert set(figures) == set(invariants.LIMITS)
    assert all(figure["holds"] for figure in figures.values()), figures
    assert figures["C10_params"]["value"] > 0, "the same devices twice"


# Starts


def test_starts_of_known_times(monkeypatch, capsys, tmp_path):
    """Each pair has a cache of its own, the second start finds the first one's."""
    seen, times = [], iter([10.0, 1.0, 20.0, 3.0, 8.0, 0.8])

    def run(name, flags, *, environment):
        flags = dict(f.lstrip("-").split("=") for f in flags)
        seen.append((name, os.path.basename(flags["cache"]), flags["preset"]))
        assert environment["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
        row = {"init_seconds": 1, "trace_seconds": 2, "compile_seconds": next(times)}
        with open(flags["out"], "w") as f:
            json.dump({"rows": [row], "preset": "cpu"}, f)
        return 0

    monkeypatch.setattr(start.child, "run", run)
    monkeypatch.setattr(start, "PAIRS", {"cpu": 3})
    out = tmp_path / "out.json"
    assert bench.main(["bench", "start", *SMALL, f"--out={out}"]) == 0
    assert seen == [("start", str(i), "cpu") for i in (0, 0, 1, 1, 2, 2)]
    content = json.loads(out.read_text())
    cold, warm = content["rows"]
    assert (cold["compile_seconds"], warm["compile_seconds"]) == (10, 1)
    assert warm["ratio"] == pytest.approx(0.1) and cold["ratio"] == 1
    assert content["figures"]["C11"]["value"] == pytest.approx(0.1)

    monkeypatch.setattr(start.child, "run", lambda *a, **k: 1)
    assert bench.main(["bench", "start", *SMALL]) == 1
    assert "a start ended with 1" in capsys.readouterr().err


def test_a_start_leaves_its_programs_in_the_cache(tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "start.json"
    code = child.run("start", [*SMALL, f"--cache={cache}", f"--out={out}"])
    assert code == 0
    row = json.loads(out.read_text())["rows"][0]
    assert row["compile_seconds"] > 0 and row["trace_seconds"] > 0
    assert any(
        "step" in name or "fun" in name for name in os.listdir(cache / "compiled")
    )


# Processes


def test_a_child_is_killed_with_all_it_has_started(monkeypatch):
    """After its time; the process it had started holds the pipe's other end."""
    read, write = os.pipe()
    program = "import subprocess as s, sys; s.run([sys.executable, '-c', 'input()'])"
    popen = subprocess.Popen

    def instead(command, **kw):
        return popen(
            [sys.executable, "-c", program], pass_fds=[write], stdin=pipe[0], **kw
        )

    pipe = os.pipe()  # never written to: they wait
    monkeypatch.setattr(child.subprocess, "Popen", instead)
    begin = time.monotonic()
    assert child.run("step", [], seconds=1.0) == -9
    assert time.monotonic() - begin < 30
    os.close(write)
    assert os.read(read, 1) == b"", "somebody lives on"


# The suite


@pytest.fixture
def parts(monkeypatch):
    """Parts that write what they are told: {name: exit code or document}."""
    told, seen = {}, []

    def run(name, flags, *, environment, seconds):
        seen.append((name, list(flags), dict(environment), seconds))
        what = told.get(name, document())
        if isinstance(what, int):
            return what
        out = next(f for f in flags if f.startswith("--out=")).removeprefix("--out=")
        logbook.write_json(out, what)
        return 0

    monkeypatch.setattr(suite.child, "run", run)
    return told, seen


def test_all_parts_are_run_and_merged(parts, tmp_path, capsys):
    told, seen = parts
    told["queue"] = document(C5=3.0)
    told["augment"] = document(C1=5.0, C2=1.1)
    out = tmp_path / "all.json"
    flags = ["--preset=cpu", "--config.seed=3", f"--out={out}"]
    assert bench.main(["bench", "suite", *flags]) == 0
    assert [name for name, *_ in seen] == [part.name for part in suite.PARTS["cpu"]]
    for _, given, environment, seconds in seen:
        assert {"--preset=cpu", "--config.seed=3"} < set(given)
        assert f"--out={out}" not in given and not environment and seconds == 1200
    written = json.loads(out.read_text())
    assert list(written["figures"]) == ["C1", "C2", "C5"]
    assert written["figures"]["C5"]["value"] == 3
    assert set(written["parts"]) == {name for name, *_ in seen}
    assert written["command"].startswith("python -m rsmatch_jax.bench suite --preset")
    assert {row["outcome"] for row in written["rows"]} == {"measured"}
    assert "| C5 " in capsys.readouterr().out


def test_every_bench_is_a_part_and_its_limits_are_known():
    """But the suite itself and what measures nothing."""
    names = set(bench.BENCHES) - {"suite", "records"}
    assert {part.name for part in suite.PARTS["cpu"]} == names
    assert {part.name for part in suite.PARTS["gpu"]} <= names
    ids = {name.split("_")[0] for name in suite.limits()}
    assert {f"C{i}" for i in range(1, 12)} | {f"G{i}" for i in range(1, 11)} <= ids


def test_a_part_that_fails_takes_nothing_with_it(parts, tmp_path, capsys):
    told, _ = parts
    told |= {"roofline": 1, "flags": -11, "queue": document(C5=3.0)}
    out = tmp_path / "all.json"
    assert bench.main(["bench", "suite", "--preset=cpu", f"--out={out}"]) == 1
    written = json.loads(out.read_text())
    outcome = {row["row"]: row["outcome"] for row in written["rows"]}
    assert outcome["roofline"] == "failed" and "killed" in outcome["flags"]
    assert outcome["input"] == "measured" and list(written["figures"]) == ["C5"]
    said = capsys.readouterr()
    assert "roofline, flags failed" in said.err and "Traceback" not in said.err


def test_a_request_that_a_part_refuses(parts, capsys):
    parts[0]["step"] = 2
    assert bench.main(["bench", "suite", "--preset=cpu"]) == 2
    assert "bench step refuses the request" in capsys.readouterr().err


def test_time_is_shared_out_on_a_gpu(parts, monkeypatch, tmp_path):
    """Each part takes 60 of 530 seconds: the ninth has less, the rest are left out."""
    _, seen = parts
    run, now = suite.child.run, [0.0]

    def slow(*args, **kw):
        now[0] += 60.0
        return run(*args, **kw)

    monkeypatch.setattr(suite.child, "run", slow)
    monkeypatch.setattr(suite.time, "monotonic", lambda: now[0])
    out = tmp_path / "all.json"
    assert bench.main(["bench", "suite", "--preset=gpu", f"--out={out}"]) == 0
    names = [part.name for part in suite.PARTS["gpu"]]
    assert [name for name, *_ in seen] == names[:9]
    assert seen[8][3] == 530 - 8 * 60
    assert len({e["JAX_COMPILATION_CACHE_DIR"] for _, _, e, _ in seen}) == 1
    rows = json.loads(out.read_text())["rows"]
    assert [r["row"] for r in rows if "left out" in r["outcome"]] == names[9:]


def test_the_preset_follows_the_device(parts):
    """Which the suite itself does not touch."""
    _, seen = parts
    assert bench.main(["bench", "suite"]) == 0
    assert seen and all("--preset=cpu" in flags for _, flags, *_ in seen)


def test_figures_of_several_parts():
    """By hand: 125 steps/s of 16.1 GB are 2.0 of 4.0 TB/s; 142 of 790 TFLOP/s; push
    and sample of 0.06 ms in a step of 10 ms."""
    whole = document(G1=125.0, G2=142.0)
    whole["rows"] = [{"row": "rsmatch", "ms": 10.0}]
    queue = document()
    for k, ms in ((10, 0.02), (1000, 0.04)):
        queue["rows"] += [{"row": f"push K={k}", "ms": ms}]
        queue["rows"] += [{"row": f"sample K={k}", "ms": 0.02}]
    ceilings = {
        "copy_bytes_per_second": 4.025e12,
        "matmul_flops_per_second": {"bfloat16": 790e12},
    }
    parts = {"loop": whole, "queue": queue, "roofline": document()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite.roofline, "ceilings", lambda content: ceilings)
        found = suite.combined(parts)
    values = {name: figure["value"] for name, figure in found.items()}
    assert values == pytest.approx(
        {"G2_share": 142 / 790, "G3": 0.5, "G6_K10": 0.004, "G6_K1000": 0.006}
    )
    assert suite.combined({"loop": document(), "queue": queue}) == {}


# The README's tables


@pytest.fixture
def folder(tmp_path):
    """benchmarks/ with two runs, and a README with the marks."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "README.md").write_text(
        f"before\n{records.BEGIN}\nold\n{records.END}\nafter\n"
    )
    for name, value in (("a", 2.0), ("b", 3.0)):
        content = document(C5=value)
        content["figures"]["C5"] |= {"spread": [1.0, 4.0], "holds": value < 3}
        content["command"] = f"python -m {name}"
        content["device"]["load"] = 0.1
        logbook.write_json(str(tmp_path / "benchmarks" / f"{name}.json"), content)
    return tmp_path


def test_the_readme_gets_its_tables(folder, capsys):
    readme = folder / "README.md"
    flags = [f"--folder={folder}/benchmarks", f"--readme={readme}"]
    assert bench.main(["bench", "records", *flags]) == 0
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "old" not in text
    cells = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    }
    # The last file's, set in bold for it misses its limit.
    assert cells["C5"][1:] == ["**3.00 (1.00 to 4.00)**", "<= 4", "<= 2"]
    assert cells["G1"][1:] == ["not yet measured", ">= 100", ">= 160"]
    assert set(cells) >= set(suite.limits())
    assert "2 cores of Abacus, jax 1.0" in text and "`python -m b`" in text
    assert bench.main(["bench", "records", *flags]) == 0
    assert readme.read_text() == text, "a second time changes something"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "README.md").write_text("nothing"), "lacks the lines"),
        (lambda f: (f / "README.md").unlink(), "cannot be read"),
        (lambda f: (f / "benchmarks/a.json").write_text("{"), "a.json cannot be read"),
        (lambda f: (f / "benchmarks/a.json").write_text("{}"), "it lacks command"),
    ],
)
def test_what_is_no_record_is_named(folder, damage, words, capsys):
    damage(folder)
    flags = [f"--folder={folder}/benchmarks", f"--readme={folder}/README.md"]
    assert bench.main(["bench", "records", *flags]) == 2
    assert words in capsys.readouterr().err


def test_the_readme_says_what_the_files_say():
    """Made anew by `python -m rsmatch_jax.bench records` whenever they change."""
    readme = ROOT / "README.md"
    assert records.write(str(ROOT / "benchmarks"), str(readme)) == readme.read_text()


def test_flags_are_left_out_with_their_values():
    words = [
        "--out=a.json",
        "-preset",
        "cpu",
        "--config.seed=1",
        "--outer=2",
        "-out",
        "x",
    ]
    assert request.without(words, "out", "preset") == ["--config.seed=1", "--outer=2"]
