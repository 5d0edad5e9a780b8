"""Lists the kernels of a compiled step with their bytes and operations.

Counted from the module's text, because XLA's own analysis knows nothing of a program
for a GPU. A kernel reads its operands and writes its results once. Of a lookup only the
rows that are read count, and of an update in place only what is written.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from rsmatch_jax.bench.harness import hlo, kernel_trace
from rsmatch_jax.bench.harness.hlo import Instruction

VIEWS, QUEUE, UPDATE, EMA, LOSSES, REST = (
    *("views", "queue", "update", "EMA"),
    *("losses and metrics", "rest"),
)
# Named scopes of the step; the first match counts. Networks have scopes of their names.
_SCOPES = {"views": VIEWS, "queue": QUEUE, "update": UPDATE, "ema": EMA}
COLLECTIVE, COPY, PRODUCT = "collective", "copy", "matrix product"
_COLLECTIVES = re.compile(
    r"^(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?$"
)
_MOVES = {"copy", "transpose", "convert", "slice", "reshape", "bitcast-convert"}
_LOOKUPS = {"gather", "dynamic-slice", "slice"}
_UPDATES = {"dynamic-update-slice", "scatter"}
_ARRAY = re.compile(r"\b(pred|bf16|f8\w+|[sufc]\d+)\[([\d,]*)\]")
_TRIP_COUNT = re.compile(r'known_trip_count"?:\{"n":"?(\d+)')


class Kernel(NamedTuple):
    """Work that a device starts as one piece; times: how often a step repeats it.

    scope: part of the step. kind: see `_kind`. flops: of convolutions.
    """

    instruction: Instruction
    computation: str
    times: int
    scope: str
    kind: str
    bytes: int
    flops: float
    dtype: str  # of the first operand


def kernels(module: hlo.Module, networks: Sequence[str]) -> list[Kernel]:
    """Returns the kernels of a module in the order of their start."""
    sources = kernel_trace.sources(module)
    shapes = {i.name: i.shape for i in module.instructions()}
    result = []
    for i, computation, times in work(module):
        source = sources[i.name]
        operands = i.operands()
        convolution = next((c for c in _inside(module, i) if c.is_convolution), None)
        first = _ARRAY.search(shapes.get(operands[0], "")) if operands else None
        result.append(
            Kernel(
                instruction=i,
                computation=computation,
                times=times,
                scope=_scope(source.op_name, networks),
                kind=_kind(module, i, source),
                bytes=_traffic(module, i, shapes),
                flops=_flops(convolution, shapes) if convolution else 0.0,
                dtype=first[1] if first else "",
            )
        )
    return result


def size(shape: str) -> int:
    """Returns the bytes of a shape, of all arrays of a tuple."""
    total = 0
    for dtype, dims in _ARRAY.findall(shape):
        bits = re.search(r"\d+", dtype)  # f8e4m3fn has 8; pred has no number
        total += _count(dims) * (int(bits[0]) if bits else 8) // 8
    return total


def is_collective(i: Instruction) -> bool:
    """Whether devices exchange something; the end of a started exchange is not."""
    return bool(_COLLECTIVES.match(i.opcode))


def longest_chain(module: hlo.Module, computation: str) -> int:
    """Returns the most collectives of a computation that wait for one another."""
    depth: dict[str, int] = {}
    for i in module.computations[computation]:
        before = max((depth.get(name, 0) for name in i.operands()), default=0)
        depth[i.name] = before + is_collective(i)
    return max(depth.values(), default=0)


def moved_slices(module: hlo.Module, computation: str) -> dict[tuple[str, str], int]:
    """Returns how many kernels of a computation do nothing but move, or convert, a
    float32 argument or a slice of it: {(argument, slice): their number}."""
    arguments = {
        i.name
        for i in module.computations[computation]
        if i.opcode in ("parameter", "get-tuple-element") and i.shape.startswith("f32")
    }
    counts: dict[tuple[str, str], int] = {}
    for i in module.computations[computation]:
        parts = _inside(module, i) if i.opcode == "fusion" else [i]
        if not _only_moves(parts):
            continue
        for name in set(i.operands()) & arguments:
            for part in [p for p in parts if p.opcode == "slice"] or [i]:
                cut = re.search(r"slice=\{([^}]*)\}", part.text)
                key = (name, cut[1] if cut else "")
                counts[key] = counts.get(key, 0) + 1
    return counts


def unknown_loops(module: hlo.Module) -> int:
    """Returns how many loops have a number of turns that the compiler does not know:
    the host of a GPU waits for the answer at every turn."""
    loops = [i for i in module.instructions() if i.opcode == "while"]
    return sum(not _TRIP_COUNT.search(i.text) for i in loops)


def host_transfers(module: hlo.Module) -> int:
    """Returns how many instructions exchange data with the host."""
    opcodes = ("infeed", "outfeed", "send", "recv")
    return sum(
        i.opcode in opcodes
        or (i.opcode == "custom-call" and "callback" in i.text)
        or (i.opcode in ("copy-start", "copy") and "S(5)" in i.shape)
        for i in module.instructions()
    )


def work(
    module: hlo.Module, name: str | None = None, times: int = 1
) -> Iterator[tuple[Instruction, str, int]]:
    """Instructions that do work, with their computation and number of repetitions, of
    the entry or of the computation `name`.

    A call counts as what it calls: XLA's CPU backend wraps parallel fusions so. What a
    loop repeats is there once, with its number of turns.
    """
    name = module.entry if name is None else name
    for i in module.computations[name]:
        if i.opcode in ("call", "async-start") and i.called():
            yield from work(module, i.called()[0], times)
        elif i.opcode == "while":
            turns = _TRIP_COUNT.search(i.text)
            (body,) = re.findall(r"body=%?([\w.\-]+)", i.text)
            yield from work(module, body, times * int(turns[1] if turns else 1))
        elif i.opcode == "conditional":
            yield i, name, times
            for branch in i.called():
                yield from work(module, branch, times)
        elif i.opcode not in hlo.NO_WORK and not i.opcode.endswith("-done"):
            yield i, name, times


def _inside(module: hlo.Module, i: Instruction) -> list[Instruction]:
    """The parts of a fusion, or the instruction itself."""
    return module.computations[i.called()[0]] if i.opcode == "fusion" else [i]


def _only_moves(parts: Sequence[Instruction]) -> bool:
    opcodes = {part.opcode for part in parts} - hlo.NO_WORK
    return bool(opcodes) and opcodes <= _MOVES


def _scope(op_name: str, networks: Sequence[str]) -> str:
    words = re.findall(r"\w+", op_name)
    for word, scope in _SCOPES.items():
        if word in words:
            return scope
    for network in networks:
        if network in words:
            backward = "transpose" in words
            return f"{network} {'backward' if backward else 'forward'}"
    return LOSSES if "loss" in words else REST


def _kind(module: hlo.Module, i: Instruction, source: kernel_trace.Source) -> str:
    """A class of kernel_trace for convolutions, or one of the constants above, or the
    opcode."""
    if source.convolution:
        return source.convolution
    if is_collective(i):
        return COLLECTIVE
    if _only_moves(_inside(module, i)) or i.opcode.startswith("copy"):
        return COPY
    opcodes = {part.opcode for part in _inside(module, i)}
    if "dot" in opcodes or (i.opcode == "custom-call" and "gemm" in i.text):
        return PRODUCT
    return i.opcode


def _traffic(module: hlo.Module, i: Instruction, shapes: Mapping[str, str]) -> int:
    """Bytes that a kernel reads and writes."""
    operands = [size(shapes.get(name, "")) for name in i.operands()]
    if i.opcode != "fusion":
        written = size(i.shape)
        if i.opcode in ("gather", "dynamic-slice"):
            operands[0] = written
        return sum(operands) + written
    parts = _inside(module, i)
    by_name = {part.name: part for part in parts}
    written = size(i.shape)
    for part in parts:
        uses = list(_uses(parts, part.name))
        if part.opcode in _UPDATES:
            # In place: of its buffer only the new values are written.
            update = part.operands()[1 if part.opcode[0] == "d" else -1]
            written -= size(part.shape) - size(by_name[update].shape)
        if part.opcode != "parameter" or not uses:
            continue
        number = int(part.text.split(")")[0])
        if all(_on_first(use, name, _LOOKUPS) for use, name in uses):
            item = size(part.shape) / max(1, _elements(part.shape))
            read = sum(_elements(use.shape) for use, _ in uses)
            operands[number] = round(item * read)
        elif all(_on_first(use, name, _UPDATES) for use, name in uses):
            operands[number] = 0
    return sum(operands) + max(0, written)


def _uses(parts: Sequence[Instruction], name: str) -> Iterator[tuple[Instruction, str]]:
    """(part, the operand's name there) of what reads a part of a fusion, also under
    another shape or dtype."""
    for part in parts:
        if name not in part.operands():
            continue
        if part.opcode in ("bitcast", "convert"):
            yield from _uses(parts, part.name)
        else:
            yield part, name


def _on_first(use: Instruction, name: str, opcodes: Collection[str]) -> bool:
    """Whether it is such an operation on `name`, and has no other use for it."""
    return use.opcode in opcodes and use.operands().index(name) == 0


def _flops(i: Instruction, shapes: Mapping[str, str]) -> float:
    """Operations of a convolution: 2 per output pixel, channel and tap of the forward
    pass, of which both gradients have as many. Padding counts as pixels."""
    labels = re.search(r"dim_labels=\w+_(\w+)->", i.text)
    arrays = (i.shape, *(shapes[name] for name in i.operands()[:2]))
    result, first, second = (_ARRAY.findall(shape)[0][1] for shape in arrays)
    output, weights = result, second
    if "convBackwardInput" in i.text:
        output = first
    elif "convBackwardFilter" in i.text:
        output, weights = second, result
    channels = int(weights.split(",")[labels[1].index("o")]) if labels else 1
    return 2.0 * _count(output) * _count(weights) / channels


def _elements(shape: str) -> int:
    return sum(_count(dims) for _, dims in _ARRAY.findall(shape))


def _count(dims: str) -> int:
    return math.prod(int(d) for d in dims.split(",") if d)
