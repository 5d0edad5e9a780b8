"""Classifies the kernels of a profiler's trace with the compiled program's text.

A trace says when each kernel ran and to which instruction it belongs. The program's
text says from which scope of the source the instruction comes. Kernels inside a CUDA
graph may lack the instruction; then the kernel's name decides.
"""

import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from rsmatch_jax.bench.harness import hlo

CLASSES = (
    FORWARD := "convolution, forward",
    INPUT_GRADIENT := "convolution, input gradient",
    WEIGHT_GRADIENT := "convolution, weight gradient",
    SOME_CONVOLUTION := "convolution, unknown pass",
    NETWORK := "network: BatchNorm, elementwise, losses",
    VIEWS := "views",
    QUEUE := "queue",
    UPDATE := "optimiser and EMA",
    COPIES := "copies and transposes",
    OTHER := "other",
)
SCOPES = {  # named scopes of the step
    "views": VIEWS,
    "queue": QUEUE,
    "loss": NETWORK,
    "screening": NETWORK,
    "update": UPDATE,
    "ema": UPDATE,
}
# XLA's names of cuDNN's convolutions: in custom_call_target.
_CUDNN = {
    "convForward": FORWARD,
    "convBiasActivationForward": FORWARD,
    "convBackwardInput": INPUT_GRADIENT,
    "convBackwardFilter": WEIGHT_GRADIENT,
}
# Classes by a kernel's name; the first match counts.
_KERNELS = (
    # Not just "nhwc": names of convolutions hold their layouts.
    (re.compile(r"(?i)^mem(cpy|set)|(nchw|nhwc)to|transpose|permute"), COPIES),
    (re.compile(r"(?i)dgrad|bw_?input|backward_?data"), INPUT_GRADIENT),
    (re.compile(r"(?i)wgrad|bw_?filter|backward_?filter"), WEIGHT_GRADIENT),
    (re.compile(r"(?i)fprop"), FORWARD),
    (re.compile(r"(?i)conv(?!ert)|implicit_gemm"), SOME_CONVOLUTION),
)
_MOVES = re.compile(
    r"^(wrapped_|input_|loop_)?(copy|transpose|bitcast)"
    r"(_(copy|transpose|bitcast))*(_fusion)?(\.\d+)*$"
)
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TARGET = re.compile(r'custom_call_target="__cudnn\$(\w+)"')
_WINDOW = re.compile(r"window=\{size=([\dx]+)")
_LABELS = re.compile(r"dim_labels=\w+->(\w+)")


class Kernel(NamedTuple):
    """One execution of a kernel, in nanoseconds; line: its stream or thread; op: its
    instruction, "" where the trace does not say."""

    name: str
    op: str
    line: str
    start: float
    end: float


class Source(NamedTuple):
    """Where an instruction of a compiled program comes from."""

    opcode: str
    op_name: str  # path of scopes in the source, "" for what XLA added
    convolution: str  # its class if it is or holds a convolution, or ""


def read(folder: str, platform: str) -> list[Kernel]:
    """Kernels of the trace that `jax.profiler.trace(folder)` wrote, by start.

    They are of the busiest GPU, or operations in the host's threads. On a CPU an
    operation that hands its work to other threads without waiting shows only the
    hand-over: Eigen's convolutions do, YNNPACK's do not.
    """
    (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
    if platform == "cpu":
        host = [plane for plane in planes if plane.name == "/host:CPU"]
        kernels = [k for plane in host for k in _kernels(plane.lines) if k.op]
    else:
        devices = [
            # Only streams: the other lines are sums of kernels.
            list(_kernels(x for x in plane.lines if x.name.startswith("Stream #")))
            for plane in planes
            if plane.name.startswith("/device:")
        ]
        busiest = max(devices, key=len, default=[])
        # Streams also hold events of memory that is allocated and freed.
        kernels = [k for k in busiest if not k.name.startswith("Memory")]
    return sorted(kernels, key=lambda k: k.start)


def _kernels(lines: Iterable[Any]) -> Iterator[Kernel]:
    for number, line in enumerate(lines):
        for event in line.events:
            if event.duration_ns > 0:
                op = str(dict(event.stats).get("hlo_op", ""))
                end = event.start_ns + event.duration_ns
                yield Kernel(
                    event.name, op, f"{number} {line.name}", event.start_ns, end
                )


def busy_and_window(kernels: Iterable[Kernel]) -> tuple[float, float]:
    """Nanoseconds in which at least one kernel ran, the union of their intervals, and
    from the first start to the last end."""
    busy, begin, reached = 0.0, float("inf"), float("-inf")
    for k in sorted(kernels, key=lambda k: k.start):
        busy += max(0.0, k.end - max(k.start, reached))
        begin, reached = min(begin, k.start), max(reached, k.end)
    return busy, reached - begin


def self_times(kernels: Iterable[Kernel]) -> list[tuple[Kernel, float]]:
    """(kernel, nanoseconds without the kernels nested in it), by line, then start. On a
    CPU a loop is an operation, and so is each operation that it repeats."""
    times: list[list[Any]] = []  # [kernel, nanoseconds]
    running: list[list[Any]] = []  # those that have not ended
    for k in sorted(kernels, key=lambda k: (k.line, k.start, -k.end)):
        running = [x for x in running if x[0].line == k.line and x[0].end > k.start]
        if running:
            running[-1][1] -= min(k.end, running[-1][0].end) - k.start
        running.append([k, k.end - k.start])
        times.append(running[-1])
    return [(k, nanoseconds) for k, nanoseconds in times]


def sources(module: hlo.Module) -> dict[str, Source]:
    """{instruction: source} of a compiled program, of all computations.

    A fusion or call without a name in the source takes the last name within the
    computation that it calls. It holds a convolution if that computation does.
    """
    result: dict[str, Source] = {}
    for i in module.instructions():
        op_name = _first(_OP_NAME, i.text)
        convolution = _convolution(i, op_name)
        inner = []
        if i.opcode in ("fusion", "call") and i.called():
            inner = module.computations.get(i.called()[0], [])
        for part in reversed(inner):
            name = _first(_OP_NAME, part.text)
            op_name = op_name or name
            convolution = convolution or _convolution(part, name or op_name)
        result[i.name] = Source(i.opcode, op_name, convolution)
    return result


def classify(kernel: Kernel, program: Mapping[str, Source]) -> str:
    """The kernel's class, one of CLASSES. program: see `sources`."""
    by_name = next((c for p, c in _KERNELS if p.search(kernel.name)), None)
    source, op = program.get(kernel.op), kernel.op
    if source is None or (source.opcode == "call" and kernel.name != op):
        # In a CUDA graph. A fusion's kernel has its name, with _ for the dot.
        op = re.sub(r"_(\d+)$", r".\1", kernel.name)
        op = kernel.name if kernel.name in program else op
        source = program.get(op)
    if source is None:
        return by_name or OTHER
    if by_name == COPIES and (source.convolution or kernel.name.startswith("Mem")):
        return COPIES  # cuDNN converts layouts in separate kernels
    if source.convolution:
        return source.convolution
    scopes = [w for w in re.findall(r"\w+", source.op_name) if w in SCOPES]
    by_scope = SCOPES[scopes[-1]] if scopes else OTHER
    moves = source.opcode in ("copy", "copy-start", "copy-done", "transpose")
    if moves or (by_scope in (NETWORK, OTHER) and _MOVES.match(op)):
        return COPIES
    return by_scope


def _convolution(i: hlo.Instruction, op_name: str) -> str:
    """The class of a convolution, "" for other instructions."""
    backward = "transpose(" in op_name
    target = _first(_TARGET, i.text)
    if i.opcode == "custom-call" and target.startswith("conv"):
        kind = _CUDNN.get(target, SOME_CONVOLUTION)
        # XLA writes an input gradient without stride as a forward convolution.
        return INPUT_GRADIENT if kind == FORWARD and backward else kind
    if i.opcode != "convolution":
        return ""
    if op_name and not backward:
        return FORWARD
    # XLA's rewrites have no name. A weight gradient slides a gradient image over the
    # few positions of a kernel; the others slide a kernel over an image.
    sizes = re.findall(r"\d+", i.shape.partition("[")[2])
    labels = zip(_first(_LABELS, i.text), sizes, strict=False)
    positions = math.prod(int(size) for label, size in labels if label.isdigit())
    slid = math.prod(int(n or 1) for n in _first(_WINDOW, i.text).split("x"))
    if slid > positions:
        return WEIGHT_GRADIENT
    is_reversed = "lhs_dilate" in i.text or "rhs_reversal" in i.text
    return INPUT_GRADIENT if backward or is_reversed else FORWARD


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""
