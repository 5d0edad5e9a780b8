"""What a bench says: figures against their limits, the machine, tables, JSON."""

import dataclasses
import importlib.metadata
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax import files, terminal
from rsmatch_jax.bench.harness import timing
from rsmatch_jax.bench.harness.request import Request
from rsmatch_jax.bench.harness.timing import Spread

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
# Rivals of some benches: named where they are installed.
OPTIONAL = ("pillow", "tensorflow", "torch")


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a figure must reach, and should; at_least: more is better."""

    unit: str
    must: float
    goal: float | None = None
    at_least: bool = False

    def holds(self, value: float) -> bool:
        return value >= self.must if self.at_least else value <= self.must

    def figure(self, value: float, spread: Spread | None = None) -> dict[str, Any]:
        """The figure's JSON; spread: its quartiles, None for what does not vary."""
        return {
            "value": value,
            "unit": self.unit,
            "must": self.must,
            "goal": self.goal,
            "holds": self.holds(value),
            "spread": None if spread is None else [spread.low, spread.high],
        }


def document(
    request: Request,
    bench: str,
    figures: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """All of a bench as one JSON-ready dict; a figure not measured is absent."""
    device = request.device
    return {
        "bench": bench,
        "command": shlex.join(
            ["python", "-m", "rsmatch_jax.bench", bench, *request.words]
        ),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "used": 1,
            "visible": jax.local_device_count(),
            "cpu": _cpu_model(),
            "cores": cores(),
            "load": os.getloadavg()[0],  # of the last minute, all processes
        },
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
            **_rivals(),
        },
        "preset": request.preset,
        "precision": request.config.model.dtype,
        "config": {"name": request.config_name, **request.config.to_dict()},
        "figures": dict(figures),
        "rows": list(rows),
    }


def deliver(
    request: Request, content: Mapping[str, Any], limits: Mapping[str, Limit]
) -> None:
    """Shows the figures with their limits, and writes the JSON file if asked to."""
    show_figures(content["figures"], limits)
    if request.out is not None:
        files.write_json(request.out, content)
        terminal.say(f"written: {request.out}")


def show_figures(
    figures: Mapping[str, Mapping[str, Any]], limits: Mapping[str, Limit]
) -> None:
    """A table on the terminal of {ID: figure}, and which miss what they must reach."""
    if not figures:
        terminal.say("\nno limit applies at these sizes on this device\n")
        return
    show([_figure_row(name, f, limits[name]) for name, f in figures.items()])
    terminal.say()
    missed = [name for name, f in figures.items() if not f["holds"]]
    if missed:
        terminal.say(
            f"does not hold: {', '.join(missed)}. This is a measurement and no "
            "failure: the exit code is 0"
        )


def show(rows: Sequence[Mapping[str, str]]):
    """A table on the terminal, of dicts with equal keys."""
    lines = [list(row.values()) for row in rows]
    terminal.say(f"\n{terminal.table(list(rows[0]), lines, numbers=True)}")


def number(value: float | None, digits: int = 2) -> str:
    """With so many decimals; values too small for them as 1.2e-07."""
    if value is None:
        return "-"
    small = 0 < abs(value) < 10**-digits
    return f"{value:.1e}" if small else f"{value:,.{digits}f}"


def interval(low_high: Sequence[float] | None, digits: int = 2) -> str:
    if low_high is None:
        return "-"
    return f"{number(low_high[0], digits)} to {number(low_high[1], digits)}"


def wall(seconds: Spread) -> dict[str, Any]:
    """A row's columns of the time of one step."""
    return {
        "ms": 1e3 * seconds.median,
        "ms_quartiles": [1e3 * seconds.low, 1e3 * seconds.high],
    }


def timed(
    seconds: Mapping[str, np.ndarray], label: str, reference: str
) -> dict[str, Any]:
    """A row's columns of time from seconds a step, {label: float [rounds]}: its own and
    as a ratio to the reference's, which is taken within a round."""
    ratio, _ = timing.ratios(seconds, reference)[label]
    return {
        **wall(timing.spread(seconds[label])),
        "ratio": ratio.median,
        "ratio_quartiles": [ratio.low, ratio.high],
    }


def scaled(value: float | None, unit: float) -> str:
    """In units of `unit`, for a table; "-" for None."""
    return "-" if value is None else number(value / unit, 3)


def cores() -> int | None:
    """Cores that this process may use; /proc/cpuinfo lists the host's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _figure_row(name: str, figure: Mapping[str, Any], limit: Limit) -> dict[str, str]:
    sign = ">=" if limit.at_least else "<="
    goal = figure["goal"]
    return {
        "figure": f"{name} ({figure['unit']})",
        "value": number(figure["value"], 3),
        "quartiles": interval(figure["spread"], 3),
        "must": f"{sign} {figure['must']:g}",
        "goal": "-" if goal is None else f"{sign} {goal:g}",
        "holds": "yes" if figure["holds"] else "NO",
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            for line in f:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _rivals() -> dict[str, str]:
    found = {}
    for name in OPTIONAL:
        # TensorFlow's CPU build is a distribution of another name.
        for distribution in (name, f"{name}-cpu"):
            try:
                found[name] = importlib.metadata.version(distribution)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found
