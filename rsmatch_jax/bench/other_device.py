"""Compiles a run's step for a device that is not there, and counts it.

    python -m rsmatch_jax.bench compiled --target=h100[:8] [--method=rsmatch]
        [--steps=1] [--config=...] [--config.group.key=value ...] [--out=FILE.json]

Targets: h100, h200, a100, v5e, v6e; with :N on N of them. --steps: in one dispatch. The
program is that of a run, with its views inside where images lie on the device.
Everything printed is compiled, not run: bytes and operations are counted in the
program's text, and the floor is what they take at the target's published rates. A real
step takes longer.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rsmatch_jax import files, terminal
from rsmatch_jax.bench.harness import command_line, counts, frame, machine, workload
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runtime import targets
from rsmatch_jax.runtime.targets import Target

NAME = "compiled"
# The sizes of a GPU, on any machine.
PRESETS = dict.fromkeys(command_line.PRESETS, command_line.PRESETS["gpu"])
FLAGS: command_line.Extra = {"target": None, "method": None, "steps": 1.0}
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
    text, steps = request.flags["target"], request.flags["steps"]
    if text is None:
        raise RequestError("--target: which device? For example --target=h100")
    if steps < 1 or steps % 1:
        raise RequestError(f"--steps={steps:g}: a number of steps, at least 1")
    method, target = request.flags["method"], targets.read(text)
    values = {"method.name": method} if method else {}
    exp = experiment(request.config, values, target)
    content = counts.counted(exp, target, int(steps))
    show(content)
    words = ["python", "-m", "rsmatch_jax.bench", NAME, *request.words]
    if request.out is not None:
        content = {
            "bench": NAME,
            "command": shlex.join(words),
            "versions": machine.versions(),
            "config": {"name": request.config_name, **exp.config.to_dict()},
            "compiled, not run": content,
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
        frame.show((title, "kernels", "bytes", "conv_gflop", "floor_ms"), rows)
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
