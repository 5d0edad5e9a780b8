"""Profile and memory of a step: what is read from a trace, counted and compared."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import benches

from rsmatch_jax.bench import kernel_times, memory
from rsmatch_jax.bench.harness import child, hlo, kernel_trace, traffic, workload
from rsmatch_jax.bench.harness.kernel_trace import Kernel
from rsmatch_jax.data import sampler
from rsmatch_jax.errors import RunFailed

SMALL = benches.small()


def kernel(name="k", start=0.0, end=1.0, line="a", op=""):
    return Kernel(name, op, line, start, end)


def test_a_window_has_whole_dispatches_alone():
    assert kernel_times.whole_dispatches(100, 16) == 112
    assert kernel_times.whole_dispatches(96, 16) == 96
    assert kernel_times.whole_dispatches(1, 1) == 1


def test_busy_time_is_a_count_of_marked_points():
    rng = np.random.default_rng(0)
    marked, kernels = np.zeros(1000, bool), []
    for start, length in rng.integers((0, 1), (900, 30), (60, 2)):
        marked[start : start + length] = True
        kernels.append(kernel(start=float(start), end=float(start + length)))
    at = np.flatnonzero(marked)
    expected = (marked.sum(), at[-1] + 1 - at[0])
    assert kernel_trace.busy_and_window(kernels) == expected


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
    times = {k.name: nanoseconds for k, nanoseconds in kernel_trace.self_times(kernels)}
    inside = {"while": 50, "a": 20, "b": 20, "inner": 10}
    assert times == {**inside, "after": 10, "elsewhere": 100}


GPU_PROGRAM = """HloModule jit_step, is_scheduled=true, input_output_alias={ {0}: (0, \
{}, may-alias), {1}: (1, {}, must-alias) }, entry_computation_layout={(f32[4])}

%fused_add (p.0: f32[4]) -> f32[4] {
  %p.0 = f32[4]{0} parameter(0)
  ROOT %add.1 = f32[4]{0} add(%p.0, %p.0), metadata={op_name="jit(s)/update/add"}
}

%parallel (p.1: f32[4]) -> f32[4] {
  %p.1 = f32[4]{0} parameter(0)
  ROOT %may-alias = f32[4]{0} fusion(%p.1), kind=kLoop, calls=%fused_add
}

ENTRY %main (arg.0: (s32[], /*index=1*/f32[4])) -> (s32[], f32[4]) {
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
  %call.10 = f32[4]{0} call(%a), to_apply=%parallel
  %copy-start = (f32[4]{0}, f32[4]{0}) copy-start(%a)
  %copy-done = f32[4]{0} copy-done(%copy-start)
  ROOT %tuple.11 = (s32[], f32[4]{0}) tuple(%a, %b)
}
"""


def test_kernels_and_aliases_are_counted():
    """Three convolutions, a sort, two copies, and fusions, one of them in a call."""
    opcodes = [i.opcode for i, *_ in traffic.work(hlo.Module(GPU_PROGRAM))]
    assert (opcodes.count("fusion"), len(opcodes)) == (6, 12)
    assert hlo.Module(GPU_PROGRAM).aliased_leaves() == 2
    without = GPU_PROGRAM.replace("input_output_alias", "other")
    assert hlo.Module(without).aliased_leaves() == 0


def test_a_loop_counts_as_one_of_its_iterations():
    """Ten kernels of the body are no fewer in a loop of 16 turns."""

    def body(x, _):
        for _ in range(5):
            x = jnp.sort(jnp.sort(x) @ jnp.ones((9, 9)))
        return x, None

    def cost(make):
        x = jnp.ones((9, 9))
        return workload.Program(lambda: jax.jit(make).lower(x).compile(), x).cost()

    once = cost(lambda x: body(x, None))
    loop = cost(lambda x: jax.lax.scan(body, x, None, 16))
    assert once["kernels"] >= 10
    assert once["kernels"] <= loop["kernels"] <= once["kernels"] + 5


def test_an_input_gradient_that_is_written_as_a_forward_convolution():
    name = "jit(s)/while/body/loss/x"
    text = GPU_PROGRAM.replace(name, "jit(s)/loss/transpose(jvp(Net))/conv1")
    program = kernel_trace.sources(hlo.Module(text))
    assert program["cudnn-conv.1"].convolution == kernel_trace.INPUT_GRADIENT
    program = kernel_trace.sources(hlo.Module(GPU_PROGRAM))
    assert program["cudnn-conv.1"].convolution == kernel_trace.FORWARD


def test_classes_of_a_gpus_kernels():
    program = kernel_trace.sources(hlo.Module(GPU_PROGRAM))
    for name, op, expected in (
        ("sm90_xmma_fprop_nhwc_tilesize", "cudnn-conv.1", "FORWARD"),
        ("sm90_xmma_dgrad_nhwc", "cudnn-conv-bw-input.2", "INPUT_GRADIENT"),
        ("splitKreduce_kernel", "cudnn-conv-bw-filter.3", "WEIGHT_GRADIENT"),
        ("void nchwToNhwcKernel<>", "cudnn-conv.1", "COPIES"),
        ("loop_add_fusion_4", "loop_add_fusion.4", "UPDATE"),
        ("input_reduce_fusion_5", "input_reduce_fusion.5", "NETWORK"),
        ("loop_select_fusion", "loop_select_fusion", "VIEWS"),
        ("RadixSort", "sort.6", "QUEUE"),
        ("loop_multiply_fusion_7", "loop_multiply_fusion.7", "UPDATE"),
        ("MemcpyD2D", "copy.8", "COPIES"),
        ("input_transpose_fusion_9", "input_transpose_fusion.9", "COPIES"),
        # In a CUDA graph: no instruction, or the one that launched the graph.
        ("loop_select_fusion", "", "VIEWS"),
        ("input_reduce_fusion_5", "call.10", "NETWORK"),
        ("cutlass_tensorop_bf16_s16816wgrad_optimized_nhwc", "", "WEIGHT_GRADIENT"),
        ("sm80_dgrad_nhwc", "call.10", "INPUT_GRADIENT"),
        ("implicit_convolve_sgemm", "", "SOME_CONVOLUTION"),
        ("loop_convert_fusion_99", "", "OTHER"),
        ("MemcpyD2H", "", "COPIES"),
        ("something", "", "OTHER"),
    ):
        expected = getattr(kernel_trace, expected)
        assert kernel_trace.classify(kernel(name, op=op), program) == expected, name


def test_a_network_that_screens_is_a_network():
    op_name = "jit(s)/while/body/screening/classifier/bn/add"
    program = {"fusion.1": kernel_trace.Source("fusion", op_name, "")}
    of_screening = kernel_trace.classify(kernel("fusion_1", op="fusion.1"), program)
    assert of_screening == kernel_trace.NETWORK


def test_rows_and_convolutions_of_a_real_step(monkeypatch):
    """A WRN-10-1 has nine convolutions: a stem, three blocks of two, and shortcuts in
    the last two. The stem's input needs no gradient."""
    seen, traced = [], kernel_times.traced

    def spy(program, *args):
        seen.append((program, traced(program, *args)))
        return seen[-1][1]

    monkeypatch.setattr(kernel_times, "traced", spy)
    monkeypatch.setattr(kernel_times, "METHODS", ("fixmatch",))
    monkeypatch.setattr(kernel_times, "WINDOWS", {"cpu": 1})
    try:
        _, rows = benches.measured(kernel_times.BENCH)
    finally:
        jax.config.update("jax_compilation_cache_include_metadata_in_key", False)
    ((program, kernels),) = seen
    sources = kernel_trace.sources(hlo.Module(program.compiled.as_text()))
    assert all(k.op and k.end > k.start for k in kernels)
    assert kernels == sorted(kernels, key=lambda k: k.start)
    ops = {name: set() for name in kernel_trace.CLASSES}
    for k in kernels:
        ops[kernel_trace.classify(k, sources)].add(k.op)
    assert len(ops[kernel_trace.FORWARD]) == 9
    assert len(ops[kernel_trace.INPUT_GRADIENT]) == 8
    assert len(ops[kernel_trace.WEIGHT_GRADIENT]) == 9
    assert not ops[kernel_trace.SOME_CONVOLUTION] and not ops[kernel_trace.QUEUE]
    for name in (kernel_trace.NETWORK, kernel_trace.VIEWS, kernel_trace.UPDATE):
        assert ops[name], name

    row = rows["fixmatch"]
    assert row["steps"] == row["steps_per_dispatch"] == 1 and row["ms"] > 0
    assert row["idle_gap"] is row["idle_share"] is None, "convolutions are not seen"
    assert 0 < row["busy_ms"] <= row["window_ms"]
    # Threads may work side by side, but not on nothing.
    assert sum(row["classes"].values()) >= 0.99 * row["busy_ms"]
    assert len(row["largest"]) == kernel_times.LARGEST
    times = [k["ms"] for k in row["largest"]]
    assert times == sorted(times, reverse=True) and 0 < sum(times)


def test_a_trace_without_kernels():
    gpu = types.SimpleNamespace(platform="gpu", device_kind="H")
    nothing = types.SimpleNamespace(run=lambda steps: None)
    with pytest.raises(RunFailed, match="no kernel on H"):
        kernel_times.traced(nothing, 1, gpu)


def test_columns_and_figure_of_known_kernels():
    program = kernel_trace.sources(hlo.Module(GPU_PROGRAM))
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

    row |= {"ms": 5.0, "ms_quartiles": [4.0, 6.0]}  # 3 of them busy
    row |= {"row": "rsmatch", **kernel_times.idle_share(row)}
    rows = [{"row": "fixmatch"}, row]
    figure = benches.figures(kernel_times.BENCH, ["--preset=gpu"], rows)["G10"]
    assert figure["value"] == pytest.approx(0.4) and not figure["holds"]
    assert figure["spread"] == pytest.approx([0.25, 0.5])
    row |= dict.fromkeys(("idle_share", "idle_share_quartiles"))  # as on a CPU
    assert not benches.figures(kernel_times.BENCH, ["--preset=gpu"], rows)


def test_memory_of_a_small_run(capsys):
    """Resident arrays take what their shapes say."""
    flag = "--config.data.labels_per_class=1"
    (row,), values = memory.measure(memory.BENCH.parse([*SMALL, flag]))
    peak = max(stage["peak_bytes"] for stage in row["stages"])
    resident = {"memory_resident_mb": row["resident_bytes"] / 1e6}
    assert values == {**resident, "memory_host_mb": peak / 1e6}
    memory.BENCH.table([row])
    text = capsys.readouterr().out
    assert "| data.unl_images " in text and "| dispatch 2 done " in text
    assert "start, packages imported" in text
    arrays, d = row["arrays"], benches.experiment("rsmatch", flag).dims
    image = 32 * 32 * 3
    tables = {k: n for k, n in arrays.items() if k.startswith("data.tables.")}
    assert tables and all(n > 0 for n in tables.values())
    assert {k: n for k, n in arrays.items() if k not in tables} == {
        "data.lab_images": d.num_labeled * image,
        "data.lab_labels": 4 * d.num_labeled,
        "data.unl_images": d.num_unlabeled * image,
        "orders.labelled": 4 * sampler.STEPS_PER_EPOCH * d.batch_size,
        "orders.unlabelled": 4 * sampler.STEPS_PER_EPOCH * d.unlabeled_batch,
    }
    assert row["resident_bytes"] == sum(arrays.values())


def test_the_hosts_peak_grows_with_what_is_held():
    before = memory.stage("before")
    array = np.ones(256 * 2**20, np.uint8)
    during = memory.stage("during")
    del array
    after = memory.stage("after")
    assert during["bytes"] - before["bytes"] > 200 * 2**20
    assert during["peak_bytes"] >= during["bytes"]
    # The kernel counts pages by the batch, so peaks waver by a few.
    assert after["peak_bytes"] > before["bytes"] + 200 * 2**20
    assert during["bytes"] - after["bytes"] > 200 * 2**20


def test_memory_is_measured_in_a_fresh_process(monkeypatch):
    """This process passes the flags on."""
    seen = []

    def run(name, flags, *, environment):
        seen.append((name, flags, environment))
        return 0

    monkeypatch.setattr(child, "run", run)
    flags = ["--preset=cpu", "--config.train.batch_size=4"]
    memory.BENCH.main(flags)
    variables = {child.MARKER: "memory", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    assert seen == [("memory", flags, variables)]
