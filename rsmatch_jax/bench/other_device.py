"""Compiles a run's step for devices that are not there, and counts it.

    python -m rsmatch_jax.bench compiled --target=h100[:8][,...]
        [--method=rsmatch[,...]] [--devices=1] [--steps=1] [--config=...]
        [--config.group.key=value ...] [--out=FILE.json] [--module=FILE.txt]

Targets: h100, h200, a100, v5e, v6e; :N, or --devices=N, is N of them. --steps: in one
dispatch. --module: the last program's text. The program is that of a run, with its
views inside where images lie on the device. Everything printed is compiled, not run:
bytes and operations are counted in the program's text, and the floor is what they take
at the target's published rates. A real step takes longer. The estimate assumes a share
of these rates and a time to start a kernel (`harness/counts.py`).
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rsmatch_jax import files, terminal
from rsmatch_jax.bench import loop
from rsmatch_jax.bench.harness import (
    command_line,
    counts,
    frame,
    machine,
    traffic,
    workload,
)
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runtime import targets
from rsmatch_jax.runtime.targets import Target

NAME = "compiled"
# The sizes of a GPU, on any machine.
PRESETS = dict.fromkeys(command_line.PRESETS, command_line.PRESETS["gpu"])
FLAGS: command_line.Extra = {
    "target": None,
    "method": None,
    "devices": None,
    "steps": 1.0,
    "module": None,
}
COLUMNS = ("kernels", "bytes", "conv_gflop", "floor_ms", "estimate_ms")
# {dataset: (classes, pixels per side)} where they are not CIFAR-10's.
SIZES = {
    "cifar100": (100, 32),
    "stl10": (10, 96),
    "tiny_imagenet": (200, 64),
    "imagenet2012": (1000, 224),
}


def main(argv: Sequence[str]):
    """Compiles, prints the counts and writes --out=FILE.json."""
    request = command_line.parse(argv, PRESETS, FLAGS, ())
    names, steps = request.flags["target"], request.flags["steps"]
    if not names:
        raise RequestError("--target: which device? For example --target=h100")
    if steps < 1 or steps % 1:
        raise RequestError(f"--steps={steps:g}: a number of steps, at least 1")
    files.check_output(request.flags["module"], ".txt", "--module")
    count = f":{request.flags['devices']}" if request.flags["devices"] else ""
    methods = request.flags["method"] or request.config.method.name
    experiments = [
        (experiment(request.config, {"method.name": method}, target), target)
        for target in [targets.read(name + count) for name in names.split(",")]
        for method in methods.split(",")
    ]
    programs = []
    for exp, target in experiments:
        program, text = counts.counted(exp, target, int(steps))
        programs.append(program)
        show(program)
        if request.flags["module"]:
            files.write_text(request.flags["module"], text)
    words = ["python", "-m", "rsmatch_jax.bench", NAME, *request.words]
    if request.out is not None:
        content = {
            "bench": NAME,
            "kind": "compiled, not run",
            "command": shlex.join(words),
            "versions": machine.versions(),
            "config": {"name": request.config_name, **request.config.to_dict()},
            "programs": programs,
        }
        files.write_json(request.out, content)
        terminal.say(f"written: {request.out}")


def experiment(config: Any, values: Mapping[str, Any], target: Target) -> Experiment:
    """Returns the experiment of a config with changed values, on images of its
    dataset's size."""
    classes, size = SIZES.get(config.data.name, (workload.NUM_CLASSES, workload.SIZE))
    # Stand-ins, whose number alone counts: `described.compiled` replaces them.
    devices = jax.local_devices()[:1] * target.count
    return workload.build(config, values, *devices, size=size, classes=classes)


def show(content: Mapping[str, Any]):
    """Prints the counts as tables."""
    target, memory = content["target"], content["memory"]
    terminal.say(
        f"compiled, not run: {content['method']} with {content['network']}, "
        f"{content['precision']}, {content['labelled']} labelled + "
        f"{content['unlabelled']} unlabelled images, input {content['input']}, for "
        f"{target['devices']} {target['name']}"
    )
    for title, column in (("part of a step", "scopes"), ("kind of kernel", "kinds")):
        rows = [{title: name, **row} for name, row in content[column].items()]
        rows.append({title: "all", **content["totals"]})
        frame.show((title, *COLUMNS), rows)
    exchanged = content["collectives"]
    terminal.say(
        f"\ncollectives: {exchanged['count']:g}, "
        f"{exchanged['bytes'] / 1e6:.1f} MB, at most {exchanged['longest_chain']} one "
        "after the other\n"
        f"memory of a device: {memory['peak_bytes'] / 1e9:.2f} GB of "
        f"{memory['device_bytes'] / 1e9:.0f}, of which arguments "
        f"{memory['argument_bytes'] / 1e9:.2f} and temporary "
        f"{memory['temp_bytes'] / 1e9:.2f}\n"
        f"state: {content['aliased_leaves']} of {content['state_leaves']} arrays "
        "updated in place; no parameter moved more than "
        f"{content['copies_of_a_parameter']} times\n"
        f"waits of the host: {content['conditionals']} branches, "
        f"{content['loops_of_unknown_length']} loops of unknown length, "
        f"{content['host_transfers']} transfers\n"
        f"compiled in {content['compile_seconds']:.1f} s"
    )


def limits_of_figures(programs: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Returns {figure of the suite: [by the floor, by the estimate]} of FixMatch's and
    RSMatch's programs for one device."""
    by_method = {p["method"]: p for p in programs}
    if not {"fixmatch", "rsmatch"} <= by_method.keys():
        return {}
    fixmatch, rsmatch = by_method["fixmatch"], by_method["rsmatch"]
    figures: dict[str, list[float]] = {}
    for column in ("floor_ms", "estimate_ms"):
        fix, rs = (p["totals"][column] for p in (fixmatch, rsmatch))
        for name, value in {
            "G1": 1e3 / fix,
            "G2": fixmatch["totals"]["conv_gflop"] / fix,
            "G4": fix / rs,
            "G5": fixmatch["scopes"][traffic.VIEWS][column] / fix,
            "G6_K10": rsmatch["scopes"][traffic.QUEUE][column] / rs,
            "G9_fixmatch": fix * loop.FULL / 3.6e6,
            "G9_rsmatch": rs * loop.FULL / 3.6e6,
        }.items():
            figures.setdefault(name, []).append(value)
    return figures


def table(programs: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table of programs, with the hours of a run of the paper's length."""
    rows = []
    for p in programs:
        total, target = p["totals"], p["target"]
        times = (total["floor_ms"], total["estimate_ms"])
        rows.append(
            [
                f"{p['method']}, {p['network']}, {p['precision']}",
                f"{target['devices']} {target['key']}",
                frame.number(total["kernels"], 0),
                frame.number(total["bytes"] / 1e9),
                frame.number(p["collectives"]["count"], 0),
                *(frame.number(ms) for ms in times),
                *(frame.number(ms * loop.FULL / 3.6e6) for ms in times),
            ]
        )
    head = ["program", "device", "kernels", "GB moved", "collectives"]
    head += ["floor, ms", "estimate, ms", "floor, h", "estimate, h"]
    return terminal.table(head, rows)
