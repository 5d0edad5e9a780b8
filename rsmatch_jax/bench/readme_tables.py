"""The README's tables of speed, made from the JSON files in benchmarks/.

    python -m rsmatch_jax.bench records [--folder=benchmarks] [--readme=README.md]

Writes what stands between the two marks in the README. A figure that no file holds
reads "not yet measured".
"""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from rsmatch_jax import files, terminal
from rsmatch_jax.bench import suite
from rsmatch_jax.bench.harness import results
from rsmatch_jax.engine import config_file
from rsmatch_jax.errors import RequestError
from rsmatch_jax.terminal import Parser

BEGIN = "<!-- made by `python -m rsmatch_jax.bench records`, not by hand -->"
END = "<!-- end of what is made -->"
MISSING = "not yet measured"
KINDS = {"C": "On a CPU", "G": "On a GPU"}  # whose figures begin with the letter
GPU_ALONE = ("start_gpu",)
BOTH = ("memory_", "step_", "update_")

Documents = Mapping[str, Mapping[str, Any]]


def main(argv: list[str]):
    """Writes the tables into the README. Raises RequestError for files that are not
    what they should be; then nothing is written."""
    parser = Parser("bench records", __doc__)
    for name in ("benchmarks", "README.md"):
        flag = "--folder" if name == "benchmarks" else "--readme"
        parser.add_argument(flag, default=os.path.join(config_file.ROOT, name))
    asked, rest = parser.parse_known_args(argv[1:])
    if rest:
        raise RequestError(f"{rest[0]!r} is no flag of bench records; see --help")
    text = write(asked.folder, asked.readme)
    files.write_text(asked.readme, text)
    terminal.say(f"written: {asked.readme}")


def write(folder: str, readme: str) -> str:
    """The README's text with the tables of a folder's files."""
    try:
        with open(readme, encoding="utf-8") as f:
            text = f.read()
    except OSError as e:
        raise RequestError(f"--readme={readme} cannot be read ({e.strerror})") from None
    if text.count(BEGIN) != 1 or END not in text.split(BEGIN)[1]:
        raise RequestError(f"--readme={readme} lacks the lines {BEGIN!r} and {END!r}")
    head, rest = text.split(BEGIN)
    tables = "\n".join(lines(read(folder)))
    return f"{head}{BEGIN}\n\n{tables}\n{END}{rest.split(END, 1)[1]}"


def read(folder: str) -> dict[str, dict[str, Any]]:
    """{file name: document} of a folder's JSON files, sorted by name."""
    if not os.path.isdir(folder):
        raise RequestError(f"--folder={folder}: there is no such folder")
    found = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".json"):
            path = os.path.join(folder, name)
            try:
                with open(path) as f:
                    document = json.load(f)
                missing = {"figures", "device", "versions", "command"} - set(document)
            except (OSError, ValueError, TypeError) as e:
                raise RequestError(f"{path} cannot be read: {e}") from None
            if missing:
                raise RequestError(f"{path} is no bench's: it lacks {min(missing)}")
            found[name] = document
    return found


def lines(documents: Documents) -> Iterator[str]:
    """Markdown. Where files share a figure, the last one by name speaks."""
    for kind, title in KINDS.items():
        yield f"**{title}**"
        yield ""
        yield from figure_table(documents, kind)
        yield ""
    yield from method_table(documents)
    yield from sources(documents)


def figure_table(documents: Documents, kind: str) -> Iterator[str]:
    """Every figure of a kind that has a limit, measured or not."""
    rows = []
    for name, limit in sorted(suite.limits().items(), key=lambda x: suite.order(x[0])):
        gpu_alone = name[0] == "G" or name in GPU_ALONE
        if gpu_alone != (kind == "G") and not name.startswith(BOTH):
            continue
        figure = next(
            (
                document["figures"][name]
                for document in reversed(documents.values())
                if name in document["figures"]
                and (document["device"]["platform"] == "cpu") == (kind == "C")
            ),
            None,
        )
        value = MISSING
        if figure is not None:
            whole = figure["spread"] is None and float(figure["value"]).is_integer()
            value = results.number(figure["value"], 0 if whole else 2)
            if figure["spread"] is not None:
                value += f" ({results.interval(figure['spread'])})"
            if not limit.holds(figure["value"]):
                value = f"**{value}**"
        sign = ">=" if limit.at_least else "<="
        goal = "" if limit.goal is None else f"{sign} {limit.goal:g}"
        rows.append([name, limit.unit, value, f"{sign} {limit.must:g}", goal])
    yield terminal.table(["figure", "what", "median (quartiles)", "must", "goal"], rows)


def method_table(documents: Documents) -> Iterator[str]:
    """What a step of each method costs, of every file that has timed them."""
    for document in documents.values():
        if "step" in document.get("parts", {}):
            part = document["parts"]["step"]
            t = part["config"]["train"]
            yield (
                f"One step of {t['batch_size']} labelled + "
                f"{t['batch_size'] * t['unlabeled_ratio']} unlabelled images by "
                f"{part['config']['model']['classifier']}, {part['precision']}, "
                f"on {machine(document)}:"
            )
            yield ""
            rows = [
                [
                    row["row"],
                    f"{results.number(row['ratio'])} "
                    f"({results.interval(row['ratio_quartiles'])})",
                    results.number(row["ms"], 0),
                    results.number(row["gflop"], 1),
                ]
                for row in part["rows"]
            ]
            yield terminal.table(["method", "time / FixMatch's", "ms", "GFLOP"], rows)
            yield ""


def sources(documents: Documents) -> Iterator[str]:
    """A line for each file: what it was measured on, and how."""
    for name, document in documents.items():
        versions = document["versions"]
        yield (
            f"[benchmarks/{name}](benchmarks/{name}): {machine(document)}, "
            f"jax {versions['jax']}, load {document['device']['load']:.1f} at the "
            f"start; `{document['command']}`."
        )
        yield ""


def machine(document: Mapping[str, Any]) -> str:
    """The device, or the CPU with its cores."""
    device = document["device"]
    if device["platform"] != "cpu":
        return device["kind"]
    return f"{device['cores']} cores of {device['cpu']}"
