"""Benches of whole steps, of what must not change, and of starts."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import benches

from rsmatch_jax.bench import __main__ as bench
from rsmatch_jax.bench import invariants, loop, start
from rsmatch_jax.bench.harness import child, hlo, timing, workload
from rsmatch_jax.engine import feed
from rsmatch_jax.errors import RunFailed

SMALL = benches.small(batch=4)


def test_loop_rows(monkeypatch, capsys):
    """Programs are compiled until time is up."""
    now = iter([0.0, 1.0, 1.0, 20.0])
    monkeypatch.setattr(timing, "budget_clock", lambda: next(now))
    content, rows = benches.measured(loop.BENCH, "--seconds=10")
    assert list(rows) == ["fixmatch", "fixmatch, one batch", "rsmatch"]
    text = capsys.readouterr().out
    assert "left out: fixmatch, bfloat16; rsmatch, one batch" in text
    for row in rows.values():
        assert row["steps_per_dispatch"] == 1 and row["images_per_step"] == 6
        assert row["aliased_leaves"] == row["state_leaves"]
        assert row["tflops"] == pytest.approx(row["gflop"] / row["ms"])
    assert rows["fixmatch"]["gflop"] == rows["fixmatch, one batch"]["gflop"]
    assert content["figures"] == {}


@pytest.mark.parametrize("with_input", [True, False])
def test_a_turn_does_its_number_of_steps(with_input):
    """With any size of dispatch, in a loop, as on a GPU."""
    values = {"model.classifier": "wrn_10_1", "method.name": "fixmatch"}
    config = loop.BENCH.parse(SMALL).config
    exp = workload.build(config, values, jax.local_devices()[0], size=8)
    if with_input:
        source = feed.ResidentFeed(exp, workload.random_task(exp), 4)
    else:
        source = loop.OneBatch(exp, 4)
    program, counts, run = workload.FeedProgram(exp, source), [], source.run

    def counted(state, done, room):
        state, made = run(state, done, room)
        counts.append(made.count)
        return state, made

    source.run = counted
    for steps, total in ((8, 8), (3, 11), (5, 16)):
        program.run(steps)
        assert int(program.state.step) == total == program.done
    assert counts == [4, 4, 1, 1, 1, 4, 1]


def test_figures_of_whole_steps():
    """A step of FixMatch takes 8 ms, of which 0.4 are input, RSMatch's 10."""
    seconds = {
        "fixmatch": np.full(3, 8e-3),
        "fixmatch, one batch": np.full(3, 7.6e-3),
        "rsmatch": np.array([10e-3, 9e-3, 11e-3]),
    }
    table = [{"row": "fixmatch", "gflop": 1136.0}]

    def figures():
        values = loop.figures(seconds, table)
        return benches.figures(loop.BENCH, ["--preset=gpu"], [], values)

    results = figures()
    values = {name: figure["value"] for name, figure in results.items()}
    hours = {"G9_fixmatch": 2**20 * 8e-3 / 3600, "G9_rsmatch": 2**20 * 10e-3 / 3600}
    expected = {"G1": 125, "G2": 142, "G4": 0.8, "G5": 0.05, **hours}
    assert values == pytest.approx(expected)
    assert all(figure["holds"] for figure in results.values())
    spread = [(8 / 11 + 0.8) / 2, (0.8 + 8 / 9) / 2]
    assert results["G4"]["spread"] == pytest.approx(spread)
    del seconds["rsmatch"], seconds["fixmatch, one batch"]
    table[0]["gflop"] = None
    assert set(figures()) == {"G1", "G9_fixmatch"}


def test_convolutions_in_loops_are_found():
    x, w = jnp.ones((2, 4, 8, 8)), jnp.ones((4, 4, 3, 3))

    def conv(x):
        return jax.lax.conv(x, w, (1, 1), "SAME")

    def looped(x, n):
        return jax.lax.fori_loop(0, n, lambda _, x: jnp.tanh(conv(conv(x))), x)

    def below(x, n):  # a branch within a loop
        def turn(i, x):
            return jax.lax.cond(i > 2, conv, jnp.tanh, x)

        return jax.lax.fori_loop(0, n, turn, x)

    def beside(x, n):
        return jax.lax.fori_loop(0, n, lambda _, x: jnp.tanh(x), conv(x))

    for program, count in ((looped, 2), (below, 1), (beside, 0)):
        text = jax.jit(program).lower(x, 5).compile().as_text()
        assert hlo.Module(text).convolutions_in_loops() == count, program


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
    """All limits hold over a few steps around the end of an epoch."""
    for name, value in {"STEPS": 2, "FIRST": 1021, "COUNTED": 5}.items():
        monkeypatch.setattr(invariants, name, value)
    content = invariants.BENCH.content(loop.BENCH.parse(SMALL))
    figures = content["figures"]
    assert set(figures) == set(invariants.LIMITS)
    assert all(figure["holds"] for figure in figures.values()), figures
    assert figures["C10_params"]["value"] > 0, "the same devices twice"


def test_invariants_need_devices_and_their_own_sizes(monkeypatch, capsys):
    monkeypatch.setattr(invariants.jax, "local_devices", lambda: jax.devices()[:1])
    with pytest.raises(RunFailed, match="1 cpu device"):
        invariants.measure(loop.BENCH.parse(SMALL))
    monkeypatch.setenv(child.MARKER, "invariants")
    flags = ["--preset=cpu", "--config.train.batch_size=8"]
    assert bench.main(["invariants", *flags]) == 2
    assert "train.batch_size: this bench sets it" in capsys.readouterr().err


def test_starts_of_known_times(monkeypatch, capsys, tmp_path):
    """Each pair of starts has a new cache."""
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
    assert bench.main(["start", *SMALL, f"--out={out}"]) == 0
    assert seen == [("start", str(i), "cpu") for i in (0, 0, 1, 1, 2, 2)]
    content = json.loads(out.read_text())
    cold, warm = content["rows"]
    assert (cold["compile_seconds"], warm["compile_seconds"]) == (10, 1)
    assert warm["ratio"] == pytest.approx(0.1) and cold["ratio"] == 1
    assert content["figures"]["C11"]["value"] == pytest.approx(0.1)

    for code, words in ((1, "bench start ended with 1"), (2, "bench start refuses")):
        monkeypatch.setattr(start.child, "run", lambda *a, code=code, **k: code)
        assert bench.main(["start", *SMALL]) == code
        assert words in capsys.readouterr().err


def test_a_start_leaves_its_programs_in_the_cache(tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "start.json"
    code = child.run("start", [*SMALL, f"--cache={cache}", f"--out={out}"])
    assert code == 0
    row = json.loads(out.read_text())["rows"][0]
    assert row["compile_seconds"] > 0 and row["trace_seconds"] > 0
    assert any(
        "step" in name or "fun" in name for name in os.listdir(cache / "compiled")
    )
