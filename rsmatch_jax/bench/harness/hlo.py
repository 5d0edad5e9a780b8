"""Reads the text of compiled modules (`jax.stages.Compiled.as_text()`)."""

import re
from collections.abc import Iterator
from typing import NamedTuple

NO_WORK = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(  # a tuple's shape holds blanks and brackets
    r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$"
)
_CALLS = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|true_computation|"
    r"false_computation)=(\{[^}]*\}|%?[\w.\-]+)"
)


class Instruction(NamedTuple):
    """A line `name = shape opcode(text`; text holds operands and attributes."""

    name: str
    shape: str
    opcode: str
    text: str

    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        return re.findall(r"[\w.\-]+", " ".join(_CALLS.findall(self.text)))

    def operands(self) -> list[str]:
        """Names of the instructions that it reads."""
        depth, end = 0, 0
        for end, letter in enumerate(self.text):  # noqa: B007
            depth += (letter in "({[") - (letter in ")}]")
            if depth < 0:
                break
        return re.findall(r"%([\w.\-]+)", self.text[:end])

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution or a library's call that computes one."""
        if self.opcode == "custom-call":
            return bool(re.search(r'target="[^"]*conv', self.text))
        return self.opcode == "convolution"


class Module:
    """A compiled module; computations: {name: its instructions}."""

    def __init__(self, text: str | None):
        lines = (text or "").splitlines()
        self.header, self.entry = "".join(lines[:1]), ""
        self.computations: dict[str, list[Instruction]] = {"": []}
        name = ""
        for line in lines:
            if match := _INSTRUCTION.match(line):
                self.computations[name].append(Instruction(*match.groups()))
            elif match := _COMPUTATION.match(line):
                name = match[1]
                self.entry = name if line.startswith("ENTRY") else self.entry
                self.computations[name] = []

    def instructions(self) -> Iterator[Instruction]:
        """The instructions of all computations."""
        for body in self.computations.values():
            yield from body

    def aliased_leaves(self) -> int:
        """Number of outputs that reuse an input's buffer."""
        aliases = re.search(r"input_output_alias=\{(.*?)\}, entry", self.header)
        return aliases[1].count("-alias") if aliases else 0

    def convolutions_in_loops(self) -> int:
        """Number of convolutions in bodies of `while` and in what these call."""
        text = "\n".join(i.text for i in self.instructions())
        pending, reached = re.findall(r"body=%?([\w.\-]+)", text), set()
        while pending:
            name = pending.pop()
            if name in self.computations and name not in reached:
                reached.add(name)
                for i in self.computations[name]:
                    pending += i.called()
        return sum(i.is_convolution for n in reached for i in self.computations[n])
