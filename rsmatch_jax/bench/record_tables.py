"""The tables of docs/performance.md, made from the JSON files in benchmarks/.

    python -m rsmatch_jax.bench records [--folder=benchmarks]
        [--page=docs/performance.md]

Replaces the text between two marks in the page. A figure that no file holds reads
"not yet measured".
"""

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rsmatch_jax import files, terminal
from rsmatch_jax.bench import other_device, suite
from rsmatch_jax.bench.harness import counts, frame
from rsmatch_jax.engine import config_file
from rsmatch_jax.errors import RequestError

BEGIN = "<!-- made by `python -m rsmatch_jax.bench records`, not by hand -->"
END = "<!-- end of what is made -->"
MISSING = "not yet measured"
KINDS = {"C": "On a CPU", "G": "On a GPU"}  # by the first letter of a figure's ID
# The target whose compiled figures stand beside the measured ones.
FIGURES_AT = ("h100", 1)
FIGURES_OF = {  # the program that the limits are for
    "network": "wrn_28_2",
    "precision": "bfloat16",
    "labelled": 64,
    "unlabelled": 448,
    "input": "resident",
}
GPU_ALONE = ("start_gpu",)
BOTH = ("memory_", "step_", "update_")

Documents = Mapping[str, Mapping[str, Any]]


def main(argv: Sequence[str]):
    """Writes the tables into the page."""
    parser = terminal.Parser("bench records", __doc__)
    for flag, name in (("--folder", "benchmarks"), ("--page", "docs/performance.md")):
        parser.add_argument(flag, default=os.path.join(config_file.ROOT, name))
    args = parser.parse_args(argv)
    text = write(args.folder, args.page)
    files.write_text(args.page, text)
    terminal.say(f"written: {args.page}")


def write(folder: str, page: str) -> str:
    """The page's text with the tables of a folder's files."""
    try:
        with open(page, encoding="utf-8") as f:
            text = f.read()
    except OSError as e:
        raise RequestError(f"--page={page} cannot be read ({e.strerror})") from None
    tables = "\n\n".join([BEGIN, *paragraphs(read(folder)), END])
    between = f"{re.escape(BEGIN)}.*?{re.escape(END)}"
    text, count = re.subn(between, lambda _: tables, text, flags=re.DOTALL)
    if count != 1:
        raise RequestError(f"--page={page} lacks the lines {BEGIN!r} and {END!r}")
    return text


def read(folder: str) -> dict[str, dict[str, Any]]:
    """{file name: document} of a folder's JSON files, sorted by name."""
    if not os.path.isdir(folder):
        raise RequestError(f"--folder={folder}: there is no such folder")
    documents = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*.json"))):
        document = files.read_json(path) or {}
        if is_compiled(document):
            needed = {"programs", "versions", "command"}
        else:
            needed = {"figures", "device", "versions", "command"}
        missing = needed - set(document)
        if missing:
            raise RequestError(
                f"{path} is no file of a bench: it lacks {min(missing)}; move it away"
            )
        documents[os.path.basename(path)] = document
    return documents


def is_compiled(document: Mapping[str, Any]) -> bool:
    """Whether a file is of `bench compiled`, which runs nothing."""
    return document.get("bench") == other_device.NAME


def paragraphs(documents: Documents) -> Iterator[str]:
    """Markdown; of files that share a figure, the last one by name counts."""
    compiled = {name: d for name, d in documents.items() if is_compiled(d)}
    programs = [p for document in compiled.values() for p in document["programs"]]
    documents = {name: d for name, d in documents.items() if name not in compiled}
    for kind, title in KINDS.items():
        yield f"**{title}**"
        yield figure_table(documents, kind, programs if kind == "G" else [])
    if programs:
        yield (
            "Compiled, not run: what a step does on devices that were not there. "
            f"Floor: at the published rates. Estimate: {counts.ASSUMED} (assumed). "
            "Hours are of 2^20 steps, without evaluations."
        )
        yield other_device.table(programs)
    for document in documents.values():
        if "step" in document.get("parts", {}):
            yield from method_table(document)
    for name, document in documents.items():
        yield (
            f"[benchmarks/{name}](../benchmarks/{name}): {machine(document)}, jax "
            f"{document['versions']['jax']}, load {document['device']['load']:.1f} at "
            f"the start; `{document['command']}`."
        )
    for name, document in compiled.items():
        yield (
            f"[benchmarks/{name}](../benchmarks/{name}): compiled, not run, jax "
            f"{document['versions']['jax']}; `{document['command']}`."
        )


def figure_table(
    documents: Documents, kind: str, programs: Sequence[Mapping[str, Any]]
) -> str:
    """Every figure of a kind that has a limit, measured or not; bold if it misses.
    programs: compiled ones, of which the figures for one H100 get a column."""
    measured: dict[str, Any] = {}
    for document in documents.values():
        if (document["device"]["platform"] == "cpu") == (kind == "C"):
            measured |= document["figures"]
    rows, limits = [], suite.limits()
    compiled = other_device.limits_of_figures(
        [
            p
            for p in programs
            if (p["target"]["key"], p["target"]["devices"]) == FIGURES_AT
            and FIGURES_OF.items() <= p.items()
        ]
    )
    for name in sorted(limits, key=suite.order):
        gpu_alone = name[0] == "G" or name in GPU_ALONE
        if gpu_alone != (kind == "G") and not name.startswith(BOTH):
            continue
        row = frame.figure_row(name, limits[name], measured.get(name), MISSING)
        if programs:
            numbers = (frame.number(value) for value in compiled.get(name, []))
            row.insert(2, ", ".join(numbers) or "-")
        rows.append(row)
    head = ["figure", "what", "median (quartiles)", "must", "goal"]
    if programs:
        head[2:3] = [f"compiled for one {FIGURES_AT[0]}: floor, estimate"]
        head.insert(3, "measured: median (quartiles)")
    return terminal.table(head, rows)


def method_table(document: Mapping[str, Any]) -> Iterator[str]:
    """What a step of each method costs, with the sizes and the machine above."""
    part = document["parts"]["step"]
    train, model = part["config"]["train"], part["config"]["model"]
    yield (
        f"One step of {train['batch_size']} labelled + "
        f"{train['batch_size'] * train['unlabeled_ratio']} unlabelled images by "
        f"{model['classifier']}, {part['precision']}, on {machine(document)}:"
    )
    rows = []
    for row in part["rows"]:
        single = {"ms": row["ms"], "gflop": row["gflop"]}  # without quartiles
        numbers = frame.cell(single, "ms", 0), frame.cell(single, "gflop", 1)
        rows.append([row["row"], frame.cell(row, "ratio"), *numbers])
    yield terminal.table(["method", "time / FixMatch's", "ms", "GFLOP"], rows)


def machine(document: Mapping[str, Any]) -> str:
    """The device, or the CPU with its cores."""
    device = document["device"]
    if device["platform"] != "cpu":
        return device["kind"]
    return f"{device['cores']} cores of {device['cpu']}"
