"""The benches of a machine's ceilings and of compiler options: what they compute."""

import collections
import itertools
import json

import jax
import jax.numpy as jnp
import pytest
from support import benches

from rsmatch_jax.bench import flags, roofline
from rsmatch_jax.bench.harness import frame, timing, workload

SMALL = benches.small()


def each_look_takes(monkeypatch, seconds):
    """The clock of the budget starts at 0 and advances at each look."""
    looks = itertools.count()
    monkeypatch.setattr(timing, "budget_clock", lambda: seconds * next(looks))


def wide_resnet(depth, widen, rows):
    """{(images, kernel, stride): times} of a WRN on 32 x 32, by its definition."""
    counts = collections.Counter()
    size, cin = 32, 3

    def add(cout, k, stride):
        counts[(rows, size, size, cin), (k, k, cin, cout), stride] += 1

    add(16, 3, 1)
    cin = 16
    for width, first_stride in ((16, 1), (32, 2), (64, 2)):
        for block in range((depth - 4) // 6):
            stride = first_stride if block == 0 else 1
            add(width * widen, 3, stride)
            if cin != width * widen:
                add(width * widen, 1, stride)
            size, cin = size // stride, width * widen
            add(cin, 3, 1)
    return counts


def test_convolutions_are_those_of_the_networks():
    """2 labelled, 2 weak and 2 strong images; the detector sees 2 of the queue, too."""
    exp = benches.experiment("rsmatch", "--config.model.classifier=wrn_28_2")
    expected = {"classifier": wide_resnet(28, 2, 6)}
    expected["detector"] = wide_resnet(10, 1, 8)
    convs = roofline.convolutions(exp)
    counts = {name: {} for name in expected}
    for c in convs:
        stride = dict(c.options)["window_strides"][0]
        counts[c.network][c.lhs, c.rhs, stride] = c.count
        (rows, size, _, cin), (k, _, _, cout) = c.lhs, c.rhs
        assert c.flops == 2 * k * k * cin * cout * (size // stride) ** 2 * rows
    assert counts == expected
    assert [c.flops for c in convs] == sorted((c.flops for c in convs), reverse=True)


def time_small_conv():
    """{dtype: row} of one convolution."""
    shapes = ((2, 8, 8, 3), (3, 3, 3, 5), (2, 4, 4, 5))
    layout = ("NHWC", "HWIO", "NHWC")
    options = {"window_strides": (2, 2), "padding": ((1, 1), (1, 1))}
    numbers = jax.lax.conv_dimension_numbers(*shapes[:2], layout)
    options["dimension_numbers"] = numbers
    conv = roofline.Conv("classifier", *shapes, tuple(options.items()), 1)
    rates = {"float32": 1e9, "bfloat16": 2e9}
    rows = roofline.time_convolutions([conv], rates, least_seconds=0.0)
    json.dumps(rows)
    return {row["dtype"]: row for row in rows}


def test_a_sound_convolution_is_timed_in_both_types():
    rows = time_small_conv()
    assert rows["float32"]["failed"] is rows["bfloat16"]["failed"] is None
    # Rounded to 8 bits, so not equal.
    assert 1e-4 < rows["bfloat16"]["error"] < roofline.ERROR_BOUND
    for dtype, rate in (("float32", 1e9), ("bfloat16", 2e9)):
        row = rows[dtype]
        assert row["gflop"] == pytest.approx(3 * 2 * 27 * 5 * 16 * 2 / 1e9)
        speed = row["gflop"] * 1e9 / (row["ms"] / 1e3)
        assert row["flops_per_second"] == pytest.approx(speed)
        assert row["matmul_share"] == pytest.approx(speed / rate)


BROKEN = [
    (jnp.bfloat16, lambda y: y.at[0, 0, 0, 0].multiply(3), "error"),
    (jnp.bfloat16, lambda y: y / 0, "error nan"),
    (jnp.bfloat16, lambda y: 1 / 0, "ZeroDivisionError"),
    (jnp.float32, lambda y: 1 / 0, "ZeroDivisionError"),
]


@pytest.mark.parametrize(("dtype", "broken", "words"), BROKEN)
def test_a_broken_convolution_is_a_row_with_the_reason(
    monkeypatch, capsys, dtype, broken, words
):
    sound = roofline.Conv.apply

    def apply(self, x, w):
        y = sound(self, x, w)
        return broken(y) if x.dtype == dtype else y

    monkeypatch.setattr(roofline.Conv, "apply", apply)
    rows = time_small_conv()
    assert set(rows) == {"float32", "bfloat16"}
    row = rows[jnp.dtype(dtype).name]
    assert row["failed"].startswith(words)
    assert ("ms" not in row) == ("ZeroDivision" in words)
    if dtype == jnp.bfloat16:
        assert rows["float32"]["failed"] is None
    else:
        assert "float32 failed" in rows["bfloat16"]["failed"]
    frame.show(roofline.CONV_TABLE, [row])
    assert row["failed"] in capsys.readouterr().out


def test_ceilings_of_made_up_rows():
    """Small copies do not count, and each dtype has its best product."""
    rows = [{"row": "launch", "part": "launch", "ms": 2.0}]
    for large, speed in ((False, 9.0), (True, 4.0), (True, 5.0)):
        rows.append({"part": "copy", "large": large, "bytes_per_second": speed})
    for dtype, speed in (("bfloat16", 8.0), ("bfloat16", 7.0), ("float32", 3.0)):
        rows.append({"part": "matmul", "dtype": dtype, "flops_per_second": speed})
    assert roofline.ceilings(rows) == (5.0, {"bfloat16": 8.0, "float32": 3.0})


def test_the_machine_is_measured_until_time_is_up(monkeypatch, capsys):
    monkeypatch.setattr(roofline, "COPIED_MIB", {"cpu": (1, 2, 3)})
    monkeypatch.setattr(roofline, "MULTIPLIED", {"cpu": (16, 32)})
    # The clock's second look allows one convolution, its third one no other.
    each_look_takes(monkeypatch, 0.6 * roofline.SECONDS)
    content, rows = benches.measured(roofline.BENCH)
    parts = [row["part"] for row in content["rows"]]
    counts = {part: parts.count(part) for part in dict.fromkeys(parts)}
    assert counts == {"copy": 3, "matmul": 4, "launch": 2, "conv": 2}
    for row in content["rows"][:7]:  # from medians: each byte twice, 2 n^3
        if row["part"] == "copy":
            mib = int(row["row"].split()[1])
            speed = 2 * mib * 2**20 / (row["ms"] / 1e3)
            assert row["bytes_per_second"] == pytest.approx(speed)
        else:
            speed = 2 * row["n"] ** 3 / (row["ms"] / 1e3)
            assert row["flops_per_second"] == pytest.approx(speed)
    assert "left out: " in capsys.readouterr().out
    assert [r["large"] for r in content["rows"][:3]] == [False, True, True]
    assert content["figures"] == {}
    roofline.BENCH.table(content["rows"])
    text = capsys.readouterr().out
    assert all(f"| {name} " in text for name in rows)


def test_options_that_fail_are_rows_with_the_reason(monkeypatch, capsys):
    """Two options that work, an unknown one and one with a wrong value."""
    sets = {
        "unknown": {"xla_of_no_version": True},
        "fast math": {"xla_cpu_enable_fast_math": True},
        "wrong": {"xla_gpu_enable_command_buffer": "+CONVOLUTION"},
        "late": {"xla_cpu_enable_fast_math": False},
    }
    # The clock's looks: at the begin, then before each option.
    each_look_takes(monkeypatch, 10.0)
    monkeypatch.setitem(flags.OPTIONS, "cpu", sets)
    options, rows = benches.measured(flags.BENCH, "--seconds=35")
    assert list(rows) == ["default", "unknown", "fast math", "wrong"], "35 s are over"
    assert "xla_of_no_version" in rows["unknown"]["failed"]
    assert "+CONVOLUTION" in rows["wrong"]["failed"]
    assert "ms" not in rows["unknown"] and "ratio" not in rows["wrong"]
    good = rows["fast math"]
    assert good["failed"] is None and good["ms"] > 0 and good["ratio"] > 0
    assert rows["default"]["ms"] == pytest.approx(good["default_ms"])
    assert 0 <= good["loss_difference"] < 1e-3 and good["compile_seconds"] > 0
    assert rows["default"]["ratio"] == 1 and rows["default"]["compile_seconds"] > 0
    assert all(r["compilation_cache"] for r in rows.values()), "tests have one"
    frame.show(flags.TABLE, options["rows"])
    text = capsys.readouterr().out
    assert "xla_of_no_version" in text and "None" not in text
    assert options["figures"] == {}


def test_nothing_more_is_timed_on_a_broken_device(monkeypatch, capsys):
    """After an option that fails in compiling no step succeeds."""
    sound = jax.stages.Lowered.compile

    def broken(self, compiler_options=None):
        if compiler_options == {"x": 1}:
            monkeypatch.setattr(workload.Program, "run", None)
            raise RuntimeError("no more")
        return sound(self, compiler_options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", broken)
    monkeypatch.setitem(flags.OPTIONS, "cpu", {"a": {"x": 1}, "b": {"y": 1}})
    flags.measure(flags.BENCH.parse([*SMALL, "--seconds=0"]))
    assert "left out: a; b" in capsys.readouterr().out
    rows, _ = flags.measure(flags.BENCH.parse(SMALL))
    assert [row["row"] for row in rows] == ["default", "a"]
    out = capsys.readouterr().out
    assert "the default fails now" in out and "left out: b" in out
