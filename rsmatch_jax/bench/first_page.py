"""The page of `bench first`: what was measured, and what to do next, as Markdown."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rsmatch_jax import terminal
from rsmatch_jax.bench import correct, first_runs, suite
from rsmatch_jax.bench.harness import frame
from rsmatch_jax.metrics import names

# The beginnings of outcomes of parts.
LEFT, MEASURED, FAILED, NOT_HERE = "left", "measured", "failed", "not measured"
# {beginning of a figure's ID: what to do if it misses}, the first that fits.
ADVICE = {
    "correct_repeat": "the device does not repeat itself, so no other bits can hold: "
    "measure again with XLA_FLAGS=--xla_gpu_deterministic_ops=true",
    "correct_resume": "find the array that is restored otherwise",
    "correct_dispatch": "train with train.steps_per_dispatch=1 until it is understood",
    "correct": "trust no figure below until `bench correct` holds for every method",
    "G3": "if the compiled step moves more than the modelled 16.1 GB, find where by "
    "`bench compiled`; if not, its kernels are slow: see the profile",
    "G4": "see the detector and the queue in RSMatch's profile",
    "G5": "run `bench augment` and `bench input`",
    "G6": "run `bench queue`",
    "G10": "compare the steps a dispatch in the table of steps",
    "": "begin with the largest classes of the profile, then run `bench flags` and "
    "`bench update`",
}
_CORRECT = ("row", "forward", "update", "equal", "difference", "failed")
_STEPS = ("row", "steps_per_dispatch", "ms", "images_per_second", "tflops")
_COMPILED = ("row", "kernels", "bytes", "floor_ms", "estimate_ms", "ms")
_PEER = ("row", "precision", "form", "ms", "jax_speed_ratio")
_RUNS = ("run", "status", "steps", names.BEST)


def limits() -> dict[str, frame.Limit]:
    """{ID: limit} of the figures on the page."""
    return correct.LIMITS | suite.limits()


def parts(content: Mapping[str, Any], outcome: str) -> list[str]:
    """Names of the parts with an outcome."""
    return [r["row"] for r in content["rows"] if r["outcome"].startswith(outcome)]


def page(content: Mapping[str, Any]) -> str:
    """The page of a first.json."""
    device, compiled = content["device"], content["parts"].get("compiled", {})
    steps = {r["row"]: r["ms"] for r in _rows(content, "loop")}
    counted = [
        {"row": p["method"], **p["totals"], "ms": steps.get(p["method"])}
        for p in compiled.get("programs", ())
    ]
    sections = {
        "What to do next": "\n".join(f"- {line}" for line in _next(content)),
        "Figures": _figures(content["figures"]),
        "Parts": frame.table(("row", "seconds", "outcome"), content["rows"]),
        "Correctness": _table(_CORRECT, _rows(content, "correct")),
        "Steps": _table(_STEPS, _rows(content, "loop")),
        "Compiled, beside the ms measured": _table(_COMPILED, counted),
        **{
            f"Profile of {row['row']}, by class": _table(
                ("class", "ms"),
                [{"class": c, "ms": ms} for c, ms in row["classes"].items()],
            )
            for row in _rows(content, "profile")
        },
        "PyTorch": _table(_PEER, _rows(content, "peer")),
        "Runs": _table(_RUNS, content["runs"]),
    }
    head = (
        f"# First measurements on {device['kind']}\n\n`{content['command']}`: "
        f"{content['minutes']:.1f} minutes so far, jax {content['versions']['jax']}, "
        f"host with {device['cores']} cores of {device['cpu']}.\n"
    )
    texts = (f"\n## {title}\n\n{text}\n" for title, text in sections.items() if text)
    return head + "".join(texts)


def _rows(content: Mapping[str, Any], part: str) -> list[frame.Row]:
    return content["parts"].get(part, {}).get("rows", [])


def _table(keys: Sequence[str], rows: Sequence[frame.Row]) -> str:
    return frame.table(keys, rows) if rows else ""


def _next(content: Mapping[str, Any]) -> Iterator[str]:
    """Lines of what to do, the most important first."""
    figures = content["figures"]
    for name in sorted(figures, key=_order):
        figure = figures[name]
        if not figure["holds"]:
            advice = next(v for k, v in ADVICE.items() if name.startswith(k))
            yield f"{name} misses with {frame.cell(figure, 'value')}: {advice}."
    for outcome, what in ((FAILED, "Mend"), (NOT_HERE, "Provide what is missing for")):
        if names_ := parts(content, outcome):
            yield f"{what}: {', '.join(names_)}; the table of parts has the reasons."
    if left := [*parts(content, LEFT), *parts(content, FAILED)]:
        command = f"{content['command']} --resume={shlex.quote(content['folder'])}"
        yield f"`{command}` goes on with {', '.join(left)}."
    if any(name.startswith("G") for name in figures):
        yield (
            "Copy first.json to benchmarks/, named after the device, run `python -m "
            "rsmatch_jax.bench records`, and commit both."
        )
    if content["runs"]:
        folder = shlex.quote(f"{content['folder']}/{first_runs.SWEEP}")
        yield f"`rsmatch report {folder}` compares the runs."


def _order(name: str) -> tuple[Any, ...]:
    """Sort key of figures: those of correctness first."""
    return not name.startswith("correct"), *suite.order(name)


def _figures(measured: Mapping[str, Any]) -> str:
    """All figures of a GPU, measured or not, and others that were measured."""
    rows, known = [], limits()
    for name in sorted(known, key=_order):
        if name not in measured and not name.startswith("G"):
            continue
        figure = measured.get(name)
        rows.append(frame.figure_row(name, known[name], figure, "not measured"))
    return terminal.table(
        ["figure", "what", "median (quartiles)", "must", "goal"], rows
    )
