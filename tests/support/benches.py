"""Small requests of benches, and what every bench's JSON holds."""

import dataclasses
import json
import types

from rsmatch_jax.bench.harness import command_line, frame, workload

TOP = {"bench", "command", "device", "versions", "preset", "precision", "config"}
TOP |= {"figures", "rows"}
FIGURE = {"value", "unit", "must", "goal", "holds", "spread"}


def small(batch=2, ratio=1, classifier="wrn_10_1"):
    """Flags of a step that is fast on a CPU."""
    return [
        "--preset=cpu",
        f"--config.model.classifier={classifier}",
        f"--config.train.batch_size={batch}",
        f"--config.train.unlabeled_ratio={ratio}",
    ]


def experiment(method="fixmatch", *flags):
    """The experiment of a method at `small` sizes; flags replace some of them."""
    request = command_line.parse([*small(), *flags], command_line.PRESETS, {}, ())
    return workload.build(request.config, {"method.name": method}, request.device)


def figures(bench, flags, rows=(), values=None, platform=None):
    """The figures that follow from made-up rows and values, on the preset's device."""
    request = bench.parse(flags)
    device = types.SimpleNamespace(platform=platform or request.preset)
    request = dataclasses.replace(request, device=device)
    return frame.figures(request, bench.limits, rows, values or {})


def measured(bench, *flags):
    """(JSON, {name: row}) of a bench at `small` sizes; flags replace some of them."""
    content = bench.content(bench.parse([*small(), *flags]))
    return content, rows_of(content)


def rows_of(content):
    """{name: row} of a bench's JSON, which is checked."""
    assert set(content) == TOP
    json.dumps(content)
    for row in content["rows"]:
        if "ms" in row and row["ms"] is not None:
            low, high = row["ms_quartiles"]
            assert 0 < low <= row["ms"] <= high
    return {row["row"]: row for row in content["rows"]}


def applying(bench, *flags, platform=None):
    """IDs of the limits that apply to a request, if all is measured and just holds."""
    rows, values = {}, {}
    for name, limit in bench.limits.items():
        if limit.row:
            row = rows.setdefault(limit.row, {"row": limit.row})
            row |= {limit.column: limit.must, f"{limit.column}_quartiles": [0, 1]}
        else:
            values[name] = limit.must
    shown = figures(bench, flags, list(rows.values()), values, platform)
    assert all(figure["holds"] and set(figure) == FIGURE for figure in shown.values())
    return set(shown)
