"""The benches: what they compute from times, what they say, what they refuse."""

import json

import jax
import numpy as np
import pytest
from support import fresh_process

from rsmatch_jax.bench import __main__ as bench
from rsmatch_jax.bench import step
from rsmatch_jax.bench.harness import hlo, request, results, timing, workload

SMALL = [
    "--preset=cpu",
    "--config.model.classifier=wrn_10_1",
    "--config.train.batch_size=2",
    "--config.train.unlabeled_ratio=1",
]
FEW = ("fixmatch", "supervised", "rsmatch")
PAPER = {"value": 1.2, "unit": "x", "must": 1.25, "goal": 1.1, "holds": True}


@pytest.fixture(scope="module")
def content():
    """A real measurement, small, in a process with four devices."""
    asked = request.parse(["bench", *SMALL])
    return step.measure(asked, {k: step.ROWS[k] for k in FEW}, rounds=2)


def timed(**columns):
    """A row as the bench makes it, for the tests of figures."""
    same = {"aliased_leaves": 10, "state_leaves": 10, "gflop": 100.0}
    return {**same, **columns}


def config(*flags):
    return request.parse(["bench", *flags]).config


def test_medians_and_ratios_of_known_times():
    """Ratios are taken round by round: the second round is ten times slower for all."""
    seconds = {
        "fixmatch": np.array([0.1, 1.0, 0.1, 0.1]),
        "rsmatch": np.array([0.12, 1.3, 0.11, 0.14]),
    }
    got = step.timed_columns(seconds, "rsmatch", images=60)
    per_round = np.sort([1.2, 1.3, 1.1, 1.4])
    # Linear quantiles of four values lie at ranks 0.75, 1.5 and 2.25.
    quartiles = [1.1 + 0.75 * 0.1, 1.25, 1.3 + 0.25 * 0.1]
    np.testing.assert_allclose(np.quantile(per_round, (0.25, 0.5, 0.75)), quartiles)
    assert got["ratio"] == pytest.approx(quartiles[1])
    assert got["ratio_quartiles"] == pytest.approx([quartiles[0], quartiles[2]])
    assert got["ms"] == pytest.approx(1e3 * (0.12 + 0.14) / 2)
    assert got["ms_quartiles"] == pytest.approx([117.5, 430.0])
    assert got["steps_per_second"] == pytest.approx(1 / 0.13)
    assert got["images_per_second"] == pytest.approx(60 / 0.13)
    assert got["speed_ratio"] == pytest.approx((1 / 1.2 + 1 / 1.3) / 2)
    assert step.timed_columns(seconds, "fixmatch", 60)["ratio"] == 1


class FakeClock:
    """Time passes only while programs run."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def program(self, name, seconds):
        def run(steps):
            self.log.append((name, steps))
            self.now += steps * seconds

        return run

    def __call__(self):
        return self.now


def test_rounds_give_every_program_a_turn():
    clock = FakeClock()
    runs = {"a": clock.program("a", 2.0), "b": clock.program("b", 0.5)}
    got = timing.interleave(runs, {"a": 1, "b": 3}, rounds=8, clock=clock)
    assert {name: s.tolist() for name, s in got.items()} == {
        "a": [2.0] * 8,
        "b": [0.5] * 8,
    }
    turns = [clock.log[i : i + 2] for i in range(0, 16, 2)]
    assert all(sorted(turn) == [("a", 1), ("b", 3)] for turn in turns)
    assert len({turn[0] for turn in turns}) == 2, "the order never changed"


@pytest.mark.parametrize(
    ("per_step", "least", "steps", "warm"),
    [(0.5, 0.0, 1, [1, 1]), (0.5, 0.2, 1, [1, 1]), (0.03125, 0.25, 8, [1, 1, 8])],
)
def test_warm_up_finds_steps_that_take_long_enough(per_step, least, steps, warm):
    clock = FakeClock()
    got = timing.warm_up(clock.program("a", per_step), least, clock)
    assert got == (steps, per_step)
    assert [n for _, n in clock.log] == warm


def test_what_is_measured(content):
    assert set(content) >= {
        "device",
        "versions",
        "preset",
        "precision",
        "figures",
        "rows",
    }
    assert content["device"]["visible"] == 4 and content["device"]["used"] == 1
    assert content["versions"]["jax"] == jax.__version__
    assert (content["preset"], content["precision"]) == ("cpu", "float32")
    rows = {row["row"]: row for row in content["rows"]}
    assert tuple(rows) == FEW
    # Rows of views: B (1 + 2 mu), and the labelled ones alone.
    assert [rows[name]["images_per_step"] for name in FEW] == [6, 2, 6]
    for row in rows.values():
        assert row["steps"] == 2 and row["ms"] > 0 and row["compile_seconds"] > 0
        assert row["gflop"] > 0 and row["bytes_accessed"] > 0 and row["temp_bytes"] > 0
        low, high = row["ms_quartiles"]
        assert low <= row["ms"] <= high
    assert rows["supervised"]["gflop"] < rows["fixmatch"]["gflop"]
    # By hand: a convolution is 2 * multiplications, forward and twice backward; stem
    # without gradient for its input, 3x3 convolutions of three blocks at 32, 16, 8 px.
    convs = {(32, 3, 16, 9): 2, (32, 16, 16, 9): 6, (16, 16, 32, 9): 3}
    convs |= {(16, 32, 32, 9): 3, (16, 16, 32, 1): 3}
    convs |= {(8, 32, 64, 9): 3, (8, 64, 64, 9): 3, (8, 32, 64, 1): 3}
    macs = sum(s * s * i * o * k * n for (s, i, o, k), n in convs.items())
    assert rows["fixmatch"]["gflop"] == pytest.approx(6 * 2 * macs / 1e9, rel=0.1)


def test_all_state_leaves_are_aliased(content):
    for row in content["rows"]:
        exp = workload.build(config(*SMALL), row["config"], jax.local_devices()[0])
        leaves = len(jax.tree.leaves(exp.init_state()))
        assert row["aliased_leaves"] == row["state_leaves"] == leaves
    assert content["figures"]["C6"]["value"] == 1


def test_operations_of_the_papers_step():
    """Within the limits C7, which are far from the counts of other networks."""
    asked = request.parse(["bench", "--preset=cpu"])
    gflop = step.counted(asked, step.ROWS)
    assert 1000 < gflop["fixmatch"] <= step.LIMITS["C7_fixmatch"].must
    assert 1.05 < gflop["rsmatch"] / gflop["fixmatch"] <= step.LIMITS["C7"].must
    other = request.parse(["bench", *SMALL])
    assert step.counted(other, step.ROWS) == {}


def test_nothing_is_counted_without_the_cpu(monkeypatch):
    """As where JAX_PLATFORMS names a GPU alone; backends do not count ahead."""
    exp = workload.build(config(*SMALL), {}, jax.local_devices()[0])

    def only(backend=None):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(workload.jax, "local_devices", only)
    assert workload.gflop(exp) is None


def test_messages_between_devices_are_counted():
    text = """
  %a = f32[2]{0} all-reduce(%x), replica_groups={{0,1}}
  %b = (f32[2], f32[2]) all-gather-start(%a), dimensions={0}
  %c = f32[2]{0} all-gather-done(%b)
  %all-reduce.3 = f32[2] add(%c, %c), metadata={op_name="all-reduce(x)"}
"""
    assert hlo.collectives(text) == 2


def test_aliases_are_counted_in_the_header():
    header = (
        "HloModule f, input_output_alias={ {0}: (0, {}, may-alias), {1}: (2, {}, "
        "must-alias) }, entry_computation_layout={...}\n may-alias"
    )
    assert hlo.aliased_leaves(header) == 2
    assert hlo.aliased_leaves("HloModule f, entry_computation_layout={}") == 0


def test_figures_that_were_not_measured_are_absent(content):
    """Small networks and two images a step: only aliasing does not depend on them."""
    assert set(content["figures"]) == {"C6"}
    assert set(content["figures"]["C6"]) == {*PAPER, "spread"}


def test_figures_of_given_rows():
    columns = {
        "ratio_quartiles": [1.0, 2.0],
        "speed_ratio_quartiles": [0.5, 1.0],
        "ms_quartiles": [5.0, 8.0],
    }
    table = [
        timed(row="fixmatch", ratio=1.0, steps_per_second=150.0, **columns),
        timed(row="rsmatch", ratio=1.2, speed_ratio=0.8, **columns),
        timed(row="simmatch", ratio=1.4, **columns),
    ]
    cpu, gpu = config("--preset=cpu"), config("--preset=gpu")

    found = step.figures(table, cpu, "cpu", "cpu", {})
    assert set(found) == {"C4", "C6", "step_simmatch"}
    assert found["C4"] == {
        "value": 1.2,
        "unit": "RSMatch / FixMatch time",
        "must": 1.25,
        "goal": 1.10,
        "holds": True,
        "spread": [1.0, 2.0],
    }
    assert not found["step_simmatch"]["holds"]
    assert set(step.figures(table, cpu, "cpu", "gpu", {})) == {"C6"}

    found = step.figures(table, cpu, "cpu", "gpu", {"fixmatch": 100, "rsmatch": 112})
    assert set(found) == {"C6", "C7", "C7_fixmatch"}
    assert found["C7"]["value"] == pytest.approx(1.12) and not found["C7"]["holds"]
    assert found["C7_fixmatch"]["holds"]

    assert step.figures(table, gpu, "gpu", "cpu", {}) == {}
    assert set(step.figures(table, gpu, "gpu", "gpu", {})) == {"step_simmatch"}

    table[1]["aliased_leaves"] = 7
    found = step.figures(table, cpu, "cpu", "cpu", {})
    assert found["C6"]["value"] == pytest.approx(27 / 30) and not found["C6"]["holds"]


def test_the_preset_gives_way_to_the_user():
    c = config("--preset=cpu")
    assert (c.train.batch_size, c.train.unlabeled_ratio) == (4, 7)
    assert (c.model.classifier, c.model.dtype) == ("wrn_28_2", "float32")
    assert config().train.batch_size == 4, "the device is a CPU"
    c = config("--preset=gpu")
    assert (c.train.batch_size, c.model.dtype) == (64, "bfloat16")
    c = config("--config.train.batch_size=8", "--preset=cpu")
    assert (c.train.batch_size, c.train.unlabeled_ratio) == (8, 7)
    c = config("--config", "configs/cifar100.py", "--preset=cpu")
    assert (c.data.name, c.train.batch_size) == ("cifar100", 4)


def test_the_command_from_another_folder(tmp_path, monkeypatch, capsys):
    """The default config is found, both tables are shown, the file says the same; a
    figure that misses its limit is no failure."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(step, "ROWS", {k: step.ROWS[k] for k in FEW[:2]})
    monkeypatch.setattr(step, "ROUNDS", (2, 2))
    limit = results.Limit("share of state leaves aliased", 2.0, at_least=True)
    monkeypatch.setitem(step.LIMITS, "C6", limit)
    assert bench.main(["bench", "step", *SMALL, "--out=figures.json"]) == 0
    text = capsys.readouterr().out
    written = json.loads((tmp_path / "figures.json").read_text())
    assert [row["row"] for row in written["rows"]] == ["fixmatch", "supervised"]
    for row in written["rows"]:
        assert f"| {row['row']} " in text
        assert f"{row['aliased_leaves']}/{row['state_leaves']}" in text
    assert "does not hold: C6" in text and ">= 2" in text
    assert not written["figures"]["C6"]["holds"]


WRONG = [
    ([], ["'' is no bench", "step"]),
    (["stpe"], ["'stpe' is no bench", "step"]),
    (["step", "--preset=tpu"], ["preset", "tpu", "cpu|gpu"]),
    (["step", "--out=nowhere/figures.json"], ["nowhere", "no folder"]),
    (["step", "--out=tests"], ["--out=tests", "no file name"]),
    (["step", "--out="], ["--out=", "no file name"]),
    (["step", "--out=/proc/figures.json"], ["/proc", "cannot be written"]),
    (["step", "--config=configs/nope.py"], ["configs/nope.py", "no such file"]),
    (["step", "--config.train.batch=2"], ["train.batch", "did you mean"]),
    (["step", "--config.train.batch_size=x"], ["train.batch_size", "x"]),
    (["step", "--config.train.batch_size=0"], ["train.batch_size=0", "1 or more"]),
    (["step", "--config.method.name=rsmatch"], ["method.name", "leave it out"]),
    (["step", "--config.data.labels_per_class=5001"], ["5001", "5000"]),
    (
        ["step", "--preset=gpu", "--config.method.rsmatch.queue_length=1"],
        ["queue_length=1", "batch_size=64"],
    ),
    (["step", "more"], ["'more'"]),
]


@pytest.mark.parametrize(("argv", "words"), WRONG, ids=lambda x: " ".join(x)[:50])
def test_wrong_requests_end_before_anything_is_measured(
    argv, words, capsys, monkeypatch
):
    monkeypatch.setattr(workload, "Program", None)  # would raise TypeError
    assert bench.main(["bench", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    for word in words:
        assert word in error


def test_help_names_the_benches(capsys):
    assert bench.main(["bench", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n{name}: " in text for name in bench.BENCHES)


def test_every_row_builds_and_gets_the_same_images():
    c, device = config(*SMALL), jax.local_devices()[0]
    batches = {
        label: workload.random_batch(workload.build(c, values, device))
        for label, values in step.ROWS.items()
    }
    reference = batches[step.REFERENCE]
    assert reference.weak.shape == (2, 32, 32, 3) and reference.weak.dtype == np.uint8
    assert batches.pop("supervised").weak.shape == (0, 32, 32, 3)
    for batch in batches.values():
        jax.tree.map(np.testing.assert_array_equal, batch, reference)
    assert c.method.rsmatch.individual_models, "a row wrote into the shared config"


def test_it_needs_jax_and_configs_only(tmp_path):
    """In a process where TensorFlow, clu, orbax and more cannot be imported."""
    program = f"""
    import sys

    NAMES = ("tensorflow", "tensorflow_datasets", "clu", "orbax", "PIL", "matplotlib")

    # As if not installed, for import and for importlib.util.find_spec: JAX's
    # compilation cache looks whether TensorFlow is there.
    sys.modules.update(dict.fromkeys(NAMES))
    sys.path[:0] = [".", "tests"]
    import conftest
    from rsmatch_jax.bench import __main__ as bench, step

    step.ROWS = {{k: step.ROWS[k] for k in {FEW!r}}}
    step.ROUNDS = (2, 2)
    out = "--out={tmp_path}/figures.json"
    sys.exit(bench.main(["bench", "step", *{SMALL!r}, out]))
    """
    fresh_process.run(program)
    assert len(json.loads((tmp_path / "figures.json").read_text())["rows"]) == len(FEW)
