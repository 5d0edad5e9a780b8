"""Every bench, one after another, each in a process of its own, as one JSON file.

The order is that of questions on a machine never seen: its ceilings, whether the
compiler can be trusted with the convolutions, what the settings of the step do, the
step itself, its rivals, its parts. On a GPU all of it ends within nine minutes: what
time does not allow for is left out, and said.
"""

import dataclasses
import json
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
from rsmatch_jax.bench.harness import child, request, results
from rsmatch_jax.bench.harness.results import Limit
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.runtime import child as child_process

MODULES = (
    *(
        augment,
        flags,
        invariants,
        loop,
        memory,
        peer,
        kernel_times,
        queue_cost,
        roofline,
    ),
    *(start, step, update),
)
COMBINED = {
    "G2_share": Limit("of the matmul rate measured", 0.14, 0.23, at_least=True),
    "G3": Limit("modelled bytes, of the copy rate measured", 0.37, 0.6, at_least=True),
    "G6_K10": Limit("share of the queue in a step at most, K=10", 0.03, 0.01),
    "G6_K1000": Limit("share of the queue in a step at most, K=1000", 0.03, 0.01),
}
# What a FixMatch step of 64 + 448 images by WRN-28-2 in bfloat16 must move, by hand:
# 532 thousand numbers an image leave convolutions and 475 thousand BatchNorms, each of
# them written and read several times, forward and backward, two bytes a time.
MODELLED_BYTES = 16.1e9


@dataclasses.dataclass(frozen=True)
class Part:
    """A bench of the suite. seconds: the most that it may take; flags: beside the
    user's."""

    name: str
    seconds: float
    flags: tuple[str, ...] = ()


# In this order. On a GPU what stands late gives way to what stands early.
PARTS = {
    "gpu": (
        Part("roofline", 80),
        Part("update", 80),
        Part("flags", 100, ("--seconds=30",)),
        Part("loop", 220, ("--seconds=120",)),
        Part("queue", 40),
        Part("peer", 150),
        Part("profile", 100),
        Part("start", 90),
        Part("memory", 60),
        Part("augment", 90),
        Part("input", 60),
    ),
    "cpu": tuple(
        Part(name, 1200)
        for name in (
            *("roofline", "update", "flags", "step", "loop", "queue", "profile"),
            *("peer", "start", "memory", "augment", "input", "invariants"),
        )
    ),
}
SECONDS = {"gpu": 530.0, "cpu": float("inf")}  # for all of them
LEAST = 15.0  # left, for a part to be begun: a start alone takes some


def main(argv: list[str]):
    """As `_main`, and ends the part that runs where it is ended itself."""
    before = {s: signal.signal(s, _end) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        _main(argv)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: Any):
    del frame
    sys.exit(128 + number)  # through child.run, which kills the part


def _main(argv: list[str]):
    """Runs all parts, shows all figures, and writes --out=FILE.json after each part.

    Raises RunFailed at the end where a part has failed.
    """
    begin, load = time.monotonic(), os.getloadavg()[0]
    # Not a word to the device from here: a part may want all of it.
    _, values = request.check(argv, lambda values: None)
    preset = values.preset or _preset()
    given = [f"--preset={preset}", *request.without(argv[1:], "out", "preset")]
    documents: dict[str, Mapping[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {}
        if preset == "gpu":  # parts have programs in common; a start has its own cache
            environment["JAX_COMPILATION_CACHE_DIR"] = os.path.join(folder, "cache")
        for i, part in enumerate(PARTS[preset]):
            left = begin + SECONDS[preset] - time.monotonic()
            terminal.say(f"\n{part.name} ({i + 1} of {len(PARTS[preset])})")
            out, started = os.path.join(folder, f"{part.name}.json"), time.monotonic()
            code = None
            if left >= LEAST:
                code = child.run(
                    part.name,
                    [*given, *part.flags, f"--out={out}"],
                    environment=environment,
                    seconds=min(part.seconds, left),
                )
            if code == 2 and not documents:
                child.require_success(code, f"bench {part.name}")
            said = _said(code, out_of_time=left < part.seconds)
            terminal.say(f"{part.name}: {said}")
            if code == 0:
                with open(out) as f:
                    documents[part.name] = json.load(f)
            seconds = time.monotonic() - started
            rows.append({"row": part.name, "seconds": seconds, "outcome": said})
            if documents and values.out is not None:
                files.write_json(values.out, merge(given, load, documents, rows))
    failed = [row["row"] for row in rows if row["outcome"].startswith("failed")]
    if documents:
        results.show_figures(merge(given, load, documents, rows)["figures"], limits())
        results.show([_shown(row) for row in rows])
    if values.out is not None and documents:
        terminal.say(f"written: {values.out}")
    if failed:
        raise RunFailed(f"{', '.join(failed)} failed, see above; the rest was measured")


def merge(
    given: Sequence[str],
    load: float,
    documents: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The suite's JSON: machine and versions as the first part saw them, all figures
    and those that need several parts, and each part's own document.

    given: the flags that say what was measured. load: of the machine before it, over a
    minute.
    """
    first = next(iter(documents.values()))
    found = {k: v for d in documents.values() for k, v in d["figures"].items()}
    figures = {**found, **combined(documents)}
    return {
        "bench": "suite",
        "command": shlex.join(["python", "-m", "rsmatch_jax.bench", "suite", *given]),
        "device": {**first["device"], "load": load},
        **{key: first[key] for key in ("versions", "preset", "precision")},
        "figures": {name: figures[name] for name in sorted(figures, key=order)},
        "rows": list(rows),
        "parts": dict(documents),
    }


def combined(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Figures that need several parts; absent where one of them is."""
    found: dict[str, Any] = {}
    whole = documents.get("loop", {"figures": {}})
    if "G1" not in whole["figures"]:  # other sizes, or another device
        return found
    if "roofline" in documents:
        ceilings = roofline.ceilings(documents["roofline"])
        reached = 1e12 * whole["figures"]["G2"]["value"]
        rate = ceilings["matmul_flops_per_second"]["bfloat16"]
        found["G2_share"] = COMBINED["G2_share"].figure(reached / rate)
        moved = MODELLED_BYTES * whole["figures"]["G1"]["value"]
        share = moved / ceilings["copy_bytes_per_second"]
        found["G3"] = COMBINED["G3"].figure(share)
    if "queue" in documents and "G4" in whole["figures"]:
        # At most: here each is a program with a dispatch of its own.
        step_ms = _row(whole, "rsmatch")["ms"]
        for classes in (10, 1000):
            push = _row(documents["queue"], f"push K={classes}")["ms"]
            sample = _row(documents["queue"], f"sample K={classes}")["ms"]
            name = f"G6_K{classes}"
            found[name] = COMBINED[name].figure((push + sample) / step_ms)
    return found


def _row(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(row for row in document["rows"] if row["row"] == name)


def order(name: str) -> tuple[str, int, str]:
    """Sorts IDs as people do: C2 before C10, those without a number last."""
    number = "".join(c for c in name.split("_")[0] if c.isdigit())
    return (name[0] if number else "z", int(number or 0), name)


def _said(code: int | None, *, out_of_time: bool) -> str:
    if code is None or (code == -signal.SIGKILL and out_of_time):
        return "left out: no time was left for it"
    if code < 0:
        return "failed: killed, for it took too long or by the system"
    return {0: "measured", 2: "refused the request"}.get(code, "failed")


def limits() -> dict[str, Limit]:
    """{ID: limit} of all figures of all benches."""
    own = {k: v for module in MODULES for k, v in module.LIMITS.items()}
    return {**own, **COMBINED}


def _preset() -> str:
    """By the kind of the first device, which another process looks up."""
    program = "import jax; print(jax.local_devices()[0].platform)"
    code, text = child_process.output([sys.executable, "-c", program])
    if code:
        raise RunFailed("JAX finds no device, see above")
    return "cpu" if text.strip() == "cpu" else "gpu"


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "bench": row["row"],
        "seconds": results.number(row["seconds"], 0),
        "outcome": row["outcome"],
    }
