"""Runs every bench in turn, each in a child process, into one JSON file.

On a GPU the suite ends within nine minutes and names what it left out.
"""

import contextlib
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rsmatch_jax import files, terminal
from rsmatch_jax.bench import (
    augment,
    flags,
    invariants,
    kernel_times,
    loop,
    memory,
    peer,
    queue_cost,
    roofline,
    start,
    step,
    update,
)
from rsmatch_jax.bench import input as input_
from rsmatch_jax.bench.harness import child, command_line, frame, machine
from rsmatch_jax.errors import RunFailed, handled_by

MODULES = (
    *(roofline, update, flags, step, loop, queue_cost, kernel_times, peer, start),
    *(memory, augment, input_, invariants),
)
_QUEUE = "share of the queue in a step at most"
COMBINED = {
    "G2_share": frame.Limit("of the matmul rate measured", 0.14, 0.23, at_least=True),
    "G3": frame.Limit(
        "modelled bytes, of the copy rate measured", 0.37, 0.6, at_least=True
    ),
    "G6_K10": frame.Limit(f"{_QUEUE}, K=10", 0.03, 0.01),
    "G6_K1000": frame.Limit(f"{_QUEUE}, K=1000", 0.03, 0.01),
}
# Bytes that a FixMatch step of 64 + 448 images by WRN-28-2 in bfloat16 must move, by
# hand: per image 532 thousand numbers leave convolutions and 475 thousand BatchNorms.
# Each is written and read several times, forward and backward, at two bytes.
MODELLED_BYTES = 16.1e9
# {part: its time limit in seconds}, in order of importance: on a GPU the last ones are
# left out when time runs short.
PARTS = {
    "gpu": {
        "roofline": 80,
        "update": 80,
        "flags": 100,
        "loop": 220,
        "queue": 40,
        "peer": 150,
        "profile": 100,
        "start": 90,
        "memory": 60,
        "step": 280,
        "augment": 90,
        "input": 60,
    },
    "cpu": dict.fromkeys((module.BENCH.name for module in MODULES), 1200),
}
# Flags beside the user's.
ADDED = {"gpu": {"flags": ["--seconds=30"], "loop": ["--seconds=120"]}, "cpu": {}}
SECONDS = {"gpu": 530.0, "cpu": float("inf")}  # for all parts
GO_ON = "--out, if given, has the parts before it; started again, it measures all"
LEAST = 15.0  # seconds left that a part needs to begin


def main(argv: Sequence[str]):
    """Runs all parts, prints all figures, and writes --out=FILE.json after each part.

    A signal that ends the suite also ends its current part. Raises RequestError if the
    first part refuses the request; after the last part RunFailed if one has failed.
    """
    begin, load = time.monotonic(), os.getloadavg()[0]
    # This process touches no device: a part may need all of its memory.
    values = command_line.check(argv, {})
    device = {} if values.preset else machine.in_child()["device"]
    preset = values.preset or ("cpu" if device["platform"] == "cpu" else "gpu")
    words = [f"--preset={preset}", *command_line.without(argv, "out", "preset")]
    documents, content, rows = {}, {}, []
    with contextlib.ExitStack() as stack:
        # Raises SystemExit within child.run, which then kills the part.
        end = handled_by(
            lambda number, _: sys.exit(128 + number), (signal.SIGTERM, signal.SIGHUP)
        )
        stack.enter_context(end)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for i, (part, limit) in enumerate(PARTS[preset].items()):
            terminal.say(f"\n{part} ({i + 1} of {len(PARTS[preset])})")
            started = time.monotonic()
            left = begin + SECONDS[preset] - started
            code, out = _run(part, words, preset, min(limit, left), folder)
            if code == 2 and not documents:
                child.require_success(part, code)
            if code == 0:
                documents[part] = files.read_json(out)
            outcome = _outcome(code, out_of_time=left < limit)
            terminal.say(f"{part}: {outcome}")
            seconds = time.monotonic() - started
            rows.append({"row": part, "seconds": seconds, "outcome": outcome})
            if documents:
                content = merge(words, load, documents, rows)
                if values.out is not None:
                    files.write_json(values.out, content)
    if content:
        frame.show_figures(content["figures"], limits())
        frame.show(("row", "seconds", "outcome"), rows)
        if values.out is not None:
            terminal.say(f"written: {values.out}")
    failed = [row["row"] for row in rows if row["outcome"].startswith("failed")]
    if failed:
        raise RunFailed(f"{', '.join(failed)} failed, see above; the others succeeded")


def _run(
    part: str, words: Sequence[str], preset: str, seconds: float, folder: str
) -> tuple[int | None, str]:
    """(exit code, JSON file) of a part; the code is None if there is too little time.
    On a GPU parts share a cache, because they have programs in common."""
    out = os.path.join(folder, f"{part}.json")
    if seconds < LEAST:
        return None, out
    cache = {"JAX_COMPILATION_CACHE_DIR": os.path.join(folder, "cache")}
    return child.run(
        part,
        [*words, *ADDED[preset].get(part, []), f"--out={out}"],
        environment=cache if preset == "gpu" else {},
        seconds=seconds,
    ), out


def merge(
    words: Sequence[str],
    load: float,
    documents: Mapping[str, Mapping[str, Any]],
    rows: Sequence[frame.Row],
) -> dict[str, Any]:
    """The suite's JSON: all figures and each part's document.

    Machine and versions are the first part's. words: the suite's flags. load: of the
    machine before the suite, over a minute.
    """
    first = next(iter(documents.values()))
    figures = {k: v for d in documents.values() for k, v in d["figures"].items()}
    figures |= combined(documents)
    return {
        "bench": "suite",
        "command": shlex.join(["python", "-m", "rsmatch_jax.bench", "suite", *words]),
        "device": {**first["device"], "load": load},
        **{key: first[key] for key in ("versions", "preset", "precision")},
        "figures": {name: figures[name] for name in sorted(figures, key=order)},
        "rows": list(rows),
        "parts": dict(documents),
    }


def combined(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Figures that need several parts; absent where a part is missing."""
    values: dict[str, float] = {}
    figures = documents.get("loop", {"figures": {}})["figures"]
    figures = {k: v for k, v in figures.items() if v["value"] is not None}  # was nan
    if "G1" not in figures:  # other sizes, or another device
        return values
    if "roofline" in documents:
        copied, products = roofline.ceilings(documents["roofline"]["rows"])
        if "G2" in figures:  # a CPU has counted the operations
            values["G2_share"] = 1e12 * figures["G2"]["value"] / products["bfloat16"]
        values["G3"] = MODELLED_BYTES * figures["G1"]["value"] / copied
    if "queue" in documents and "G4" in figures:
        # At most: here each program has its own dispatch.
        queue, step_ms = (
            {row["row"]: row["ms"] for row in documents[part]["rows"]}
            for part in ("queue", "loop")
        )
        for k in (10, 1000):
            both = queue[f"push K={k}"] + queue[f"sample K={k}"]
            values[f"G6_K{k}"] = both / step_ms["rsmatch"]
    return {name: COMBINED[name].figure(value) for name, value in values.items()}


def order(name: str) -> tuple[str, int, str]:
    """Sort key of figure IDs: C2 before C10, those without a number last."""
    number = "".join(c for c in name.split("_")[0] if c.isdigit())
    return (name[0] if number else "z", int(number or 0), name)


def limits() -> dict[str, frame.Limit]:
    """{ID: limit} of all figures of all benches."""
    return {k: v for m in MODULES for k, v in m.BENCH.limits.items()} | COMBINED


def _outcome(code: int | None, *, out_of_time: bool) -> str:
    if code is None or (code == -signal.SIGKILL and out_of_time):
        return "left out: no time was left"
    if code < 0:
        return "failed: killed by its time limit or by the system"
    return {0: "measured", 2: "refused the request"}.get(code, "failed")
