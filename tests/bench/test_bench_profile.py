"""Profile and memory of a step: what is read from a trace, counted and compared."""

import dataclasses
import json
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsmatch_jax.bench import kernel_times, memory
from rsmatch_jax.bench.harness import kernel_trace, request, workload
from rsmatch_jax.bench.harness.kernel_trace import Instruction, Kernel
from rsmatch_jax.data import sampler
from rsmatch_jax.errors import RunFailed

SMALL = (
    "--preset=cpu",
    "--config.model.classifier=wrn_10_1",
    "--config.train.batch_size=2",
    "--config.train.unlabeled_ratio=1",
)
UNLABELLED = 64


def asked(*flags):
    return request.parse(["bench", *flags])


def kernel(name="k", start=0.0, end=1.0, line="a", op=""):
    return Kernel(name, op, line, start, end)


# Intervals.


def test_the_idle_gap_of_known_intervals():
    kernels = [
        kernel(start=10, end=20),
        kernel(start=15, end=30, line="b"),  # overlaps
        kernel(start=16, end=18, line="c"),  # within
        kernel(start=40, end=50),
        kernel(start=50, end=60),  # touches
    ]
    assert kernel_trace.busy(kernels) == 40
    assert kernel_trace.window(kernels) == 50
    assert kernel_trace.idle_gap(kernels) == pytest.approx(0.2)
    assert kernel_trace.idle_gap(kernels[:1]) == 0


def test_busy_time_is_a_count_of_marked_points():
    rng = np.random.default_rng(0)
    starts, lengths = rng.integers(0, 900, 60), rng.integers(1, 30, 60)
    marked = np.zeros(1000, bool)
    for start, length in zip(starts, lengths, strict=True):
        marked[start : start + length] = True
    kernels = [
        kernel(start=float(s), end=float(s + n))
        for s, n in zip(starts, lengths, strict=True)
    ]
    assert kernel_trace.busy(kernels) == marked.sum()


def test_a_loop_has_only_the_time_that_what_it_repeats_leaves():
    loop = kernel("while", 0, 100)
    kernels = [
        kernel("b", 30, 60),
        loop,
        kernel("a", 10, 30),
        kernel("inner", 35, 45),
        kernel("after", 100, 110),
        kernel("elsewhere", 0, 100, "b"),
    ]
    own = {k.name: nanoseconds for k, nanoseconds in kernel_trace.own_times(kernels)}
    assert own == {
        "while": 50,
        "a": 20,
        "b": 20,
        "inner": 10,
        "after": 10,
        "elsewhere": 100,
    }


# Classes.

GPU_PROGRAM = """HloModule jit_step, is_scheduled=true

%fused_add (p.0: f32[4]) -> f32[4] {
  %p.0 = f32[4]{0} parameter(0)
  ROOT %add.1 = f32[4]{0} add(%p.0, %p.0), metadata={op_name="jit(s)/update/add"}
}

%body (arg.0: (s32[], /*index=1*/f32[4])) -> (s32[], f32[4]) {
  %cudnn-conv.1 = (bf16[8,4,4,8]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), \
custom_call_target="__cudnn$convForward", metadata={op_name="jit(s)/while/body/loss/x"}
  %cudnn-conv-bw-input.2 = (bf16[8,4,4,8]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), \
custom_call_target="__cudnn$convBackwardInput"
  %cudnn-conv-bw-filter.3 = (bf16[3,3,8,8]{3,2,1,0}, u8[9]{0}) custom-call(%a, %b), \
custom_call_target="__cudnn$convBackwardFilter"
  %loop_add_fusion.4 = f32[4]{0} fusion(%a), kind=kLoop, calls=%fused_add
  %input_reduce_fusion.5 = f32[4]{0} fusion(%a), kind=kInput, \
metadata={op_name="jit(s)/while/body/loss/transpose(jvp(Net))/bn/reduce_sum"}
  %loop_select_fusion = u8[4]{0} fusion(%a), kind=kLoop, \
metadata={op_name="jit(s)/while/body/views/select_n"}
  %sort.6 = f32[4]{0} sort(%a), metadata={op_name="jit(s)/loss/jvp(queue)/top_k"}
  %loop_multiply_fusion.7 = f32[4]{0} fusion(%a), metadata={op_name="jit(s)/ema/mul"}
  %copy.8 = f32[4]{0} copy(%a), metadata={op_name="jit(s)/update/add"}
  %input_transpose_fusion.9 = f32[4]{0} fusion(%a), kind=kInput
  %call.10 = f32[4]{0} call(%a), to_apply=%fused_add
  ROOT %tuple.11 = (s32[], f32[4]{0}) tuple(%a, %b)
}
"""


@pytest.mark.parametrize(
    ("name", "op", "want"),
    [
        ("sm90_xmma_fprop_nhwc_tilesize", "cudnn-conv.1", kernel_trace.FORWARD),
        ("sm90_xmma_dgrad_nhwc", "cudnn-conv-bw-input.2", kernel_trace.INPUT_GRADIENT),
        ("splitKreduce_kernel", "cudnn-conv-bw-filter.3", kernel_trace.WEIGHT_GRADIENT),
        ("void nchwToNhwcKernel<>", "cudnn-conv.1", kernel_trace.COPIES),
        ("loop_add_fusion_4", "loop_add_fusion.4", kernel_trace.UPDATE),
        ("input_reduce_fusion_5", "input_reduce_fusion.5", kernel_trace.NETWORK),
        ("loop_select_fusion", "loop_select_fusion", kernel_trace.VIEWS),
        ("RadixSort", "sort.6", kernel_trace.QUEUE),
        ("loop_multiply_fusion_7", "loop_multiply_fusion.7", kernel_trace.UPDATE),
        ("MemcpyD2D", "copy.8", kernel_trace.COPIES),
        ("input_transpose_fusion_9", "input_transpose_fusion.9", kernel_trace.COPIES),
        # In a CUDA graph: no instruction, or the one that launched the graph.
        ("loop_select_fusion", "", kernel_trace.VIEWS),
        ("input_reduce_fusion_5", "call.10", kernel_trace.NETWORK),
        (
            "cutlass_tensorop_bf16_s16816wgrad_optimized_nhwc",
            "",
            kernel_trace.WEIGHT_GRADIENT,
        ),
        ("sm80_dgrad_nhwc", "call.10", kernel_trace.INPUT_GRADIENT),
        ("implicit_convolve_sgemm", "", kernel_trace.SOME_CONVOLUTION),
        ("loop_convert_fusion_99", "", kernel_trace.REST),
        ("MemcpyD2H", "", kernel_trace.COPIES),
        ("something", "", kernel_trace.REST),
    ],
)
def test_classes_of_a_gpus_kernels(name, op, want):
    program = kernel_trace.instructions(GPU_PROGRAM)
    assert kernel_trace.classify(kernel(name, op=op), program) == want


def test_instructions_of_a_text():
    program = kernel_trace.instructions(GPU_PROGRAM)
    assert len(program) == 14
    assert program["loop_add_fusion.4"] == Instruction(
        "fusion", "jit(s)/update/add", ""
    )
    assert program["tuple.11"].opcode == "tuple"
    assert program["cudnn-conv.1"].convolution == kernel_trace.FORWARD


# A real trace.


@pytest.fixture(scope="module")
def fixmatch():
    exp = workload.build(
        asked(*SMALL).config, {"method.name": "fixmatch"}, jax.local_devices()[0]
    )
    return kernel_times.Profile(exp, UNLABELLED)


def test_convolutions_of_a_real_step(fixmatch):
    """A WRN-10-1 has a stem, three blocks of two, and shortcuts in the last two: nine.
    The stem's input, which nobody trains, needs no gradient."""
    fixmatch.run(1)
    kernels = fixmatch.traced(1)
    found = {name: set() for name in kernel_trace.CLASSES}
    for k in kernels:
        found[kernel_trace.classify(k, fixmatch.program)].add(k.op)
    assert len(found[kernel_trace.FORWARD]) == 9
    assert len(found[kernel_trace.INPUT_GRADIENT]) == 8
    assert len(found[kernel_trace.WEIGHT_GRADIENT]) == 9
    assert not found[kernel_trace.SOME_CONVOLUTION] and not found[kernel_trace.QUEUE]
    for name in (kernel_trace.NETWORK, kernel_trace.VIEWS, kernel_trace.UPDATE):
        assert found[name], name

    row = kernel_times.columns([kernels], fixmatch.program, steps=1)
    json.dumps(row)
    assert 0 <= row["idle_gap"] < 1
    assert 0 < row["busy_ms"] <= row["window_ms"]
    # Threads may work side by side, but not on nothing.
    assert sum(row["classes"].values()) >= 0.99 * row["busy_ms"]
    assert len(row["largest"]) == kernel_times.LARGEST
    times = [k["ms"] for k in row["largest"]]
    assert times == sorted(times, reverse=True) and 0 < sum(times)


def test_a_trace_of_a_tiny_program():
    @jax.jit
    def program(x):
        with jax.named_scope("views"):
            x = jnp.sort(x, axis=1)
        with jax.named_scope("ema"):
            return jnp.cumsum(jnp.sin(x), axis=0)

    x = jnp.arange(512.0 * 64).reshape(512, 64)
    text = program.lower(x).compile().as_text()
    program(x).block_until_ready()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            program(x).block_until_ready()
        kernels = kernel_trace.read(folder, "cpu")
        assert kernel_trace.read(folder, "gpu") == []
    assert all(k.op and k.end > k.start for k in kernels)
    assert kernels == sorted(kernels, key=lambda k: k.start)
    classes = {
        kernel_trace.classify(k, kernel_trace.instructions(text)) for k in kernels
    }
    assert {kernel_trace.VIEWS, kernel_trace.UPDATE} <= classes


# Figures.


def test_columns_and_figure_of_known_kernels():
    program = kernel_trace.instructions(GPU_PROGRAM)
    first = [
        kernel("fprop", 0, 2e6, op="cudnn-conv.1"),
        kernel("loop_select_fusion", 4e6, 6e6, op="loop_select_fusion"),
        kernel("loop_select_fusion", 8e6, 10e6, op="loop_select_fusion"),
    ]
    second = [kernel("fprop", 0, 4e6, op="cudnn-conv.1")]
    row = kernel_times.columns([first, second, first], program, steps=2)
    assert row["idle_gap"] == pytest.approx(0.4)
    assert row["idle_gap_quartiles"] == pytest.approx([0.2, 0.4])
    assert row["kernels_per_step"] == 1.5
    assert (row["window_ms"], row["busy_ms"]) == pytest.approx((5, 3))
    assert row["classes"][kernel_trace.FORWARD] == pytest.approx(1)
    assert row["classes"][kernel_trace.VIEWS] == pytest.approx(2)
    views, conv = row["largest"]
    assert (
        views["kernel"] == "loop_select_fusion" and views["class"] == kernel_trace.VIEWS
    )
    assert views["ms"] == pytest.approx(2) and views["share"] == pytest.approx(2 / 3)
    assert views["launches_per_step"] == pytest.approx(4 / 6)
    assert conv["launches_per_step"] == pytest.approx(0.5)

    class Device:
        platform = "gpu"

    def figures(preset="gpu", device=Device, **values):
        flags = [f"--config.{key}={value}" for key, value in values.items()]
        ask = asked(f"--preset={preset}", *flags)
        ask = dataclasses.replace(ask, preset=preset, device=device)
        return kernel_times.figures(
            [{"row": "fixmatch"}, {"row": "rsmatch", **row}], ask
        )

    row |= {"ms": 5.0, "ms_quartiles": [4.0, 6.0]}  # 3 of them busy
    figure = figures()["G10"]
    assert figure["value"] == pytest.approx(0.4) and not figure["holds"]
    assert (figure["must"], figure["goal"]) == (0.10, 0.03)
    assert figure["spread"] == pytest.approx([0.25, 0.5])
    assert figures(preset="cpu") == {}
    assert figures(device=jax.local_devices()[0]) == {}
    assert figures(**{"model.dtype": "float32"}) == {}


# Memory.


def test_resident_arrays_take_what_their_shapes_say():
    exp = workload.build(
        asked(*SMALL).config, {"method.name": "rsmatch"}, jax.local_devices()[0]
    )
    row = memory.resident_columns(exp, UNLABELLED)
    arrays, d = row["arrays"], exp.dims
    image = 32 * 32 * 3
    tables = {k: n for k, n in arrays.items() if k.startswith("data.tables.")}
    assert tables and all(n > 0 for n in tables.values())
    rest = {k: n for k, n in arrays.items() if k not in tables}
    assert rest == {
        "data.lab_images": d.num_labeled * image,
        "data.lab_labels": 4 * d.num_labeled,
        "data.unl_images": UNLABELLED * image,
        "orders.labelled": 4 * sampler.STEPS_PER_EPOCH * d.batch_size,
        "orders.unlabelled": 4 * sampler.STEPS_PER_EPOCH * d.unlabeled_batch,
    }
    assert row["resident_bytes"] == sum(arrays.values())
    # Larger by as much as the images that CIFAR-10 has more, it stays below the limit.
    whole = row["resident_bytes"] + (d.num_unlabeled - UNLABELLED) * image
    whole += 4 * sampler.STEPS_PER_EPOCH * (512 - d.batch_size - d.unlabeled_batch)
    assert whole / memory.MB <= memory.LIMITS["memory_resident_mb"].must


def test_the_hosts_peak_grows_with_what_is_held():
    before = memory.stage("before")
    held = np.ones(256 * 2**20, np.uint8)
    during = memory.stage("during")
    del held
    after = memory.stage("after")
    assert during["bytes"] - before["bytes"] > 200 * 2**20
    assert during["peak_bytes"] >= during["bytes"]
    # The kernel counts pages by the batch, so peaks waver by a few.
    assert after["peak_bytes"] > before["bytes"] + 200 * 2**20
    assert during["bytes"] - after["bytes"] > 200 * 2**20


def test_memory_figures_of_known_numbers():
    stages = [{"peak_bytes": 1.2e9}, {"peak_bytes": 2.5e9}]
    row = {"resident_bytes": 181e6, "stages": stages}

    def figures(*flags):
        return memory.figures(
            row, request.parse(["bench", "--preset=cpu", *flags], memory.PRESETS)
        )

    found = figures()
    assert set(found) == {"memory_resident_mb", "memory_host_mb"}
    assert found["memory_resident_mb"]["value"] == pytest.approx(181)
    assert found["memory_resident_mb"]["holds"]
    assert found["memory_host_mb"]["value"] == pytest.approx(2500)
    assert not found["memory_host_mb"]["holds"]
    other = figures("--config.model.classifier=wrn_28_2")
    assert set(other) == {"memory_resident_mb"}
    assert figures("--config.train.batch_size=4") == {}


def test_the_process_that_measures(monkeypatch):
    """It is another one, and what it says arrives; a failing one is said to fail."""
    said = {"resident_bytes": 1, "stages": [{"peak_bytes": 2}]}
    code = (
        "import sys, os; assert sys.argv[1] == '--preset=cpu'\n"
        "assert os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] == 'false'\n"
        "import rsmatch_jax; assert 'tensorflow' not in sys.modules\n"
        f"print('noise'); print({json.dumps(json.dumps(said))})"
    )
    monkeypatch.setattr(memory, "CHILD", code)
    argv = ["bench", "--preset=cpu", "--config.train.batch_size=4"]
    content = memory.measure(argv)
    assert content["rows"] == [{"row": "rsmatch", **said}]

    monkeypatch.setattr(memory, "CHILD", "raise SystemExit(7)")
    with pytest.raises(RunFailed, match="7"):
        memory.measure(argv)
