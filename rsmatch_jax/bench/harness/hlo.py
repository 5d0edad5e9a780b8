"""Counting in the text of compiled modules."""

import re

NO_WORK = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}


def collectives(hlo: str) -> int:
    """Messages between devices, by a compiled module's text."""
    names = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    return len(re.findall(rf" (?:{names})(?:-start)?\(", hlo))


def aliased_leaves(hlo: str) -> int:
    """Outputs that take over an input's buffer, by the header of a compiled module."""
    aliased = re.search(r"input_output_alias=\{(.*?)\}, entry", hlo.split("\n", 1)[0])
    return aliased[1].count("-alias") if aliased else 0


def convolutions_in_loops(hlo: str) -> int:
    """Convolutions that a compiled module's text has in bodies of `while`, and in what
    these call."""
    bodies, convolutions, calls, name = set(), {}, {}, None
    for line in hlo.splitlines():
        begin = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if begin:
            name = begin[1]
            convolutions[name], calls[name] = 0, set()
        elif name is not None:
            if re.search(r" convolution\(|custom-call\(.*target=\"[^\"]*conv", line):
                convolutions[name] += 1
            for part in re.findall(
                r"(?:calls|to_apply|body|condition|branch_computations|"
                r"true_computation|false_computation)=(\{[^}]*\}|%?[\w.\-]+)",
                line,
            ):
                calls[name] |= set(re.findall(r"[\w.\-]+", part))
            bodies |= set(re.findall(r"body=%?([\w.\-]+)", line))
    reached, open_ = set(), list(bodies)
    while open_:
        name = open_.pop()
        if name not in reached:
            reached.add(name)
            open_ += calls.get(name, ())
    return sum(convolutions.get(name, 0) for name in reached)


def count_kernels(hlo: str) -> dict[str, int]:
    """Instructions of a compiled module's entry that do work, and fusions among them;
    calls (as XLA's CPU backend wraps parallel fusions) count as what they call."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in hlo.split("\n"):
        head = re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line)
        if head and " = " not in line.split("{")[0]:
            name = head[2]
            entry = name if head[1] else entry
            bodies[name] = []
        elif name and " = " in line:
            bodies[name].append(line)

    def count(body):
        fusions = kernels = 0
        for line in bodies[body]:
            found = re.search(r" ([a-z][\w-]*)\(", line.split(" = ", 1)[1])
            op = found[1] if found else ""
            called = re.search(r"to_apply=%?([\w.-]+)", line)
            if op == "call" and called:
                inner = count(called[1])
                fusions, kernels = fusions + inner[0], kernels + inner[1]
            elif op not in NO_WORK and not op.endswith("-done"):
                fusions, kernels = fusions + (op == "fusion"), kernels + 1
        return fusions, kernels

    fusions, kernels = count(entry)
    return {"fusions": fusions, "kernels": kernels}
