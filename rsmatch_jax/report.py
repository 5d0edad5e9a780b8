"""Collects finished runs into a table: python -m rsmatch_jax.report DIR ...

Every result.json below DIR is one row of a Markdown table on the terminal. Beside the
last figures stand the means of the last four evaluations, which a single lucky or
unlucky evaluation moves less.
"""

import argparse
import json
import os
import sys
from typing import Any

from rsmatch_jax import logbook, workdir
from rsmatch_jax.errors import RequestError

LAST = 4
IDENTITY = ("method", "seed", "steps", "status")
COLUMNS = {
    "test accuracy": "test_accuracy",
    "detector balanced accuracy": "detector_balanced_accuracy",
    "queue purity": "queue_purity",
}


def find_runs(folder: str) -> list[str]:
    """Folders below `folder`, itself included, that hold a result.json."""
    found = []
    for root, folders, files in os.walk(folder):
        folders.sort()  # in place: the order in which os.walk goes on
        if logbook.RESULT_FILE in files:
            found.append(root)
    if not found:
        raise RequestError(f"there is no {logbook.RESULT_FILE} in or below {folder}")
    return found


def row(run: str) -> dict[str, Any]:
    """What the table shows of one run; figures that a method lacks are None."""
    result = workdir.read_result(run)
    try:
        shown = {"run": run, **{key: result[key] for key in IDENTITY}}
        evaluations = _evaluations(run)[-LAST:]
        for title, key in COLUMNS.items():
            values = [e[f"eval/{key}"] for e in evaluations]
            known = None not in values and values
            shown[title] = sum(values) / len(values) if known else None
        shown["best"] = result["test_accuracy_best"]
        shown["minutes"] = result["seconds"] / 60
    except (KeyError, TypeError):
        raise RequestError(
            f"{os.path.join(run, logbook.RESULT_FILE)} is not the result of a run; "
            "move it away"
        ) from None
    return shown


def markdown(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of dicts with equal keys."""
    table = [list(rows[0]), ["---"] * len(rows[0])]
    table += [[_cell(value) for value in r.values()] for r in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(w, "-" if cell == "---" else " ")
            for cell, w in zip(line, widths, strict=True)
        )
        + " |"
        for line in table
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rsmatch_jax.report", description=__doc__)
    parser.add_argument("folders", metavar="DIR", nargs="+")
    folders = parser.parse_args(argv).folders
    try:
        rows = [row(run) for folder in folders for run in find_runs(folder)]
    except RequestError as e:
        sys.stderr.write(f"error: {e}\n")
        return 2
    sys.stdout.write(
        f"\nMeans of the last {LAST} evaluations (best: the best single one):\n\n"
        f"{markdown(rows)}\n\n"
        "In each run's folder: result.json (all figures), metrics.jsonl (curves), "
        "queue.png\n(what the queue holds), checkpoints, TensorBoard event files.\n"
    )
    return 0


def _evaluations(run: str) -> list[dict[str, Any]]:
    path = os.path.join(run, logbook.METRICS_FILE)
    try:
        with open(path) as f:
            lines = [json.loads(line) for line in f if line.endswith("\n")]
    except (OSError, json.JSONDecodeError) as e:
        raise RequestError(f"{path} cannot be read: {e}") from None
    return [line for line in lines if "eval/test_accuracy" in line]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
