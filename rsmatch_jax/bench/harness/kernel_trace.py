"""From a profiler's trace and the compiled program to classes of kernels.

A trace tells when each kernel ran and which instruction of the program it belongs to;
the program's text tells where in the source that instruction comes from. What runs
inside a CUDA graph may lack the instruction: then the kernel's own name decides.
"""

import collections
import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax

FORWARD = "convolution, forward"
INPUT_GRADIENT = "convolution, input gradient"
WEIGHT_GRADIENT = "convolution, weight gradient"
SOME_CONVOLUTION = "convolution, which is not told"
NETWORK = "network: BatchNorm, elementwise, losses"
VIEWS, QUEUE, UPDATE = "views", "queue", "optimiser and EMA"
COPIES, REST = "copies and transposes", "the rest"
CLASSES = (
    FORWARD,
    INPUT_GRADIENT,
    WEIGHT_GRADIENT,
    SOME_CONVOLUTION,
    NETWORK,
    VIEWS,
    QUEUE,
    UPDATE,
    COPIES,
    REST,
)
# Named scopes of the step.
SCOPES = {
    "views": VIEWS,
    "queue": QUEUE,
    "loss": NETWORK,
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
# What a kernel's own name says; the first that fits.
_KERNELS = (
    # Not just "nhwc": names of convolutions hold the layouts that they take.
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
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CALLS = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_TARGET = re.compile(r'custom_call_target="__cudnn\$(\w+)"')
_WINDOW = re.compile(r"window=\{size=([\dx]+)")
_LABELS = re.compile(r"dim_labels=\w+->(\w+)")


class Kernel(NamedTuple):
    """One execution. name: the kernel's; op: the instruction it belongs to, "" where
    the trace does not say; line: the stream or thread; times in nanoseconds."""

    name: str
    op: str
    line: str
    start: float
    end: float


class Instruction(NamedTuple):
    """What classifies an instruction of a compiled program."""

    opcode: str
    op_name: str  # its path of scopes in the source, "" for what XLA added
    convolution: str  # its class if it is or holds a convolution, or ""


def read(folder: str, platform: str) -> list[Kernel]:
    """Kernels of the trace that `jax.profiler.trace(folder)` left: of the busiest GPU,
    or the operations in the host's threads. Empty where the profiler saw none.

    On a CPU an operation that leaves its work to other threads and does not wait shows
    the handing over alone: Eigen's convolutions do, those of YNNPACK do not.
    """
    (file,) = glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True)
    planes = list(jax.profiler.ProfileData.from_file(file).planes)
    if platform == "cpu":
        host = [plane for plane in planes if plane.name == "/host:CPU"]
        kernels = [k for plane in host for k in _kernels(plane.lines) if k.op]
    else:
        device = [plane for plane in planes if plane.name.startswith("/device:")]
        # Only streams: the other lines sum kernels up.
        kernels = max(
            (
                list(_kernels(x for x in plane.lines if x.name.startswith("Stream #")))
                for plane in device
            ),
            key=len,
            default=[],
        )
        # The lines also tell of memory given out and taken back.
        kernels = [k for k in kernels if not k.name.startswith("Memory")]
    return sorted(kernels, key=lambda k: k.start)


def _kernels(lines) -> Iterable[Kernel]:
    for number, line in enumerate(lines):
        for event in line.events:
            if event.duration_ns > 0:
                op = next((v for k, v in event.stats if k == "hlo_op"), "")
                start, where = event.start_ns, f"{number} {line.name}"
                end = start + event.duration_ns
                yield Kernel(event.name, str(op), where, start, end)


def busy(kernels: Iterable[Kernel]) -> float:
    """Nanoseconds in which at least one of them ran: the union of their intervals."""
    total, reached = 0.0, float("-inf")
    for k in sorted(kernels, key=lambda k: k.start):
        total += max(0.0, k.end - max(k.start, reached))
        reached = max(reached, k.end)
    return total


def window(kernels: Sequence[Kernel]) -> float:
    """Nanoseconds from the first one's start to the last one's end."""
    return max(k.end for k in kernels) - min(k.start for k in kernels)


def idle_gap(kernels: Sequence[Kernel]) -> float:
    """The share of the window in which none ran, 0 to 1."""
    return 1 - busy(kernels) / window(kernels)


def own_times(kernels: Iterable[Kernel]) -> list[tuple[Kernel, float]]:
    """(kernel, nanoseconds less those of the kernels within it on its line): on a CPU a
    loop is an operation and so is what it repeats. Ordered by line, then by start."""
    found: list[list] = []
    open_: list[int] = []  # positions in `found` of what is still running
    for k in sorted(kernels, key=lambda k: (k.line, k.start, -k.end)):
        while open_ and (
            found[open_[-1]][0].line != k.line or found[open_[-1]][0].end <= k.start
        ):
            open_.pop()
        if open_:
            found[open_[-1]][1] -= min(k.end, found[open_[-1]][0].end) - k.start
        open_.append(len(found))
        found.append([k, k.end - k.start])
    return [(k, nanoseconds) for k, nanoseconds in found]


def instructions(hlo: str) -> dict[str, Instruction]:
    """{name: instruction} of a compiled program's text, those of all computations.

    An instruction that has no name in the source takes the one that the computation it
    calls ends with; it holds a convolution if that computation does.
    """
    lines: dict[str, str] = {}
    inside = collections.defaultdict(list)  # {computation: names of instructions}
    computation = ""
    for text in hlo.splitlines():
        if match := _INSTRUCTION.match(text):
            lines[match[1]] = match[2]
            inside[computation].append(match[1])
        elif match := _COMPUTATION.match(text):
            computation = match[1]
    found: dict[str, Instruction] = {}
    for name, text in lines.items():
        shape, opcode = _shape_and_opcode(text)
        op_name, convolution = _first(_OP_NAME, text), ""
        convolution = _convolution(opcode, shape, text, op_name)
        called = _first(_CALLS, text)
        for inner in reversed(inside[called]) if opcode in ("fusion", "call") else ():
            inner_shape, inner_opcode = _shape_and_opcode(lines[inner])
            inner_name = _first(_OP_NAME, lines[inner])
            op_name = op_name or inner_name
            convolution = convolution or _convolution(
                inner_opcode, inner_shape, lines[inner], inner_name or op_name
            )
        found[name] = Instruction(opcode, op_name, convolution)
    return found


def classify(kernel: Kernel, program: Mapping[str, Instruction]) -> str:
    """One of CLASSES."""
    by_name = next((c for p, c in _KERNELS if p.search(kernel.name)), None)
    instruction, op = program.get(kernel.op), kernel.op
    if instruction is None or (instruction.opcode == "call" and kernel.name != op):
        # In a CUDA graph. A fusion's kernel has its name, with _ for the dot.
        op = re.sub(r"_(\d+)$", r".\1", kernel.name)
        op = kernel.name if kernel.name in program else op
        instruction = program.get(op)
    if instruction is None:
        return by_name or REST
    if by_name == COPIES and (instruction.convolution or kernel.name.startswith("Mem")):
        return COPIES  # cuDNN turns layouts around in kernels of their own
    if instruction.convolution:
        return instruction.convolution
    scopes = [w for w in re.findall(r"\w+", instruction.op_name) if w in SCOPES]
    found = SCOPES[scopes[-1]] if scopes else REST
    moves = instruction.opcode in ("copy", "copy-start", "copy-done", "transpose")
    if moves or (found in (NETWORK, REST) and _MOVES.match(op)):
        return COPIES
    return found


def _shape_and_opcode(text):
    """("f32[2,3]{1,0}", "add") of what follows the = of an instruction."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
    else:  # a tuple's shape holds blanks and brackets
        depth, end = 1, 1
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        shape, rest = text[:end], text[end:].lstrip()
    return shape, rest.partition("(")[0]


def _convolution(opcode, shape, text, op_name):
    """The class of a convolution, "" for other instructions."""
    target = _first(_TARGET, text)
    if opcode == "custom-call" and target.startswith("conv"):
        return _CUDNN.get(target, SOME_CONVOLUTION)
    if opcode != "convolution":
        return ""
    backward = "transpose(" in op_name
    if op_name and not backward:
        return FORWARD
    # Nameless ones are XLA's rewrites. A weight gradient slides a whole gradient image
    # over the few places of a kernel; the others slide a kernel over an image.
    sizes, labels = re.findall(r"\d+", shape.partition("[")[2]), _first(_LABELS, text)
    places = 1
    for label, size in zip(labels, sizes, strict=False):
        places *= int(size) if label.isdigit() else 1
    slid = 1
    for size in _first(_WINDOW, text).split("x"):
        slid *= int(size or 1)
    if slid > places:
        return WEIGHT_GRADIENT
    reversed_ = "lhs_dilate" in text or "rhs_reversal" in text
    return INPUT_GRADIENT if backward or reversed_ else FORWARD


def _first(pattern, text):
    match = pattern.search(text)
    return match[1] if match else ""
