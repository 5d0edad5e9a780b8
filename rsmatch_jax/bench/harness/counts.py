"""Counts what a compiled step of a run does on a target: by scope, by kind, in all."""

from collections.abc import Iterable, Sequence
from typing import Any

from rsmatch_jax.bench.harness import hlo, traffic, workload
from rsmatch_jax.bench.harness.traffic import Kernel
from rsmatch_jax.engine import described, feed
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.runtime.targets import Target

# Assumed for the estimate: the share of the published rates that kernels reach, the
# time to start one, and that of an exchange between devices. A GPU's minutes of
# `bench first` replace them.
SHARE, START_MS, EXCHANGE_MS = 0.65, 0.002, 0.01
ASSUMED = (
    f"{SHARE:.0%} of these rates, {1e3 * START_MS:g} microseconds to start a kernel "
    f"and {1e3 * EXCHANGE_MS:g} for an exchange between devices"
)
_DTYPES = {"bf16": "bfloat16"}  # HLO's name; all else computes at float32's rate


def counted(
    exp: Experiment, target: Target, steps: int = 1
) -> tuple[dict[str, Any], str]:
    """Compiles a dispatch of `steps` steps of an experiment for a target and returns
    its counts per step, as JSON, and the module's text. With input from the host a
    dispatch has one step."""
    images, config = None, exp.config
    if config.data.image_size is None and config.input.mode != "tfdata":
        images = feed.gathered(exp, workload.random_task(exp))
    steps = 1 if images is None else steps
    program = described.compiled(exp, images, target, steps)
    module = hlo.Module(program.text)
    counts = {
        "target": {"key": target.key, "name": target.name, "devices": target.count},
        "method": config.method.name,
        "network": config.model.classifier,
        "precision": config.model.dtype,
        "labelled": exp.dims.batch_size,
        "unlabelled": exp.dims.unlabeled_batch if exp.method.uses_unlabeled else 0,
        "input": "tf.data" if images is None else "resident",
        "steps_per_dispatch": steps,
        **of_module(module, sorted(exp.nets), target, steps),
        "state_leaves": program.state_leaves,
        "memory": {
            "argument_bytes": program.argument_bytes,
            "temp_bytes": program.temp_bytes,
            "peak_bytes": program.peak_bytes,
            "device_bytes": target.memory_bytes,
        },
        "compile_seconds": program.compile_seconds,
    }
    return counts, program.text


def of_module(
    module: hlo.Module, networks: Sequence[str], target: Target, steps: int
) -> dict[str, Any]:
    """Returns the counts of a module of `steps` steps, each divided by their number."""
    kernels = traffic.kernels(module, networks)

    def sums(part: Iterable[Kernel]) -> dict[str, float]:
        part = list(part)
        return {
            "kernels": sum(k.times for k in part) / steps,
            "bytes": sum(k.times * k.bytes for k in part) / steps,
            "conv_gflop": sum(k.times * k.flops for k in part) / steps / 1e9,
            "floor_ms": sum(k.times * _least_ms(k, target) for k in part) / steps,
            "estimate_ms": sum(k.times * _likely_ms(k, target) for k in part) / steps,
        }

    def groups(column: str) -> dict[str, dict[str, float]]:
        parts: dict[str, list[Kernel]] = {}
        for k in kernels:
            parts.setdefault(getattr(k, column), []).append(k)
        totals = {name: sums(part) for name, part in parts.items()}
        return dict(sorted(totals.items(), key=lambda g: -g[1]["kernels"]))

    bodies = {k.computation for k in kernels}
    collectives = sums(k for k in kernels if k.kind == traffic.COLLECTIVE)
    moved = [traffic.moved_slices(module, body).values() for body in bodies]
    return {
        "totals": sums(kernels),
        "scopes": groups("scope"),
        "kinds": groups("kind"),
        "collectives": {
            "count": collectives["kernels"],
            "bytes": collectives["bytes"],
            "longest_chain": max(traffic.longest_chain(module, b) for b in bodies),
        },
        "aliased_leaves": module.aliased_leaves(),
        "copies_of_a_parameter": max((max(n, default=0) for n in moved), default=0),
        "host_transfers": traffic.host_transfers(module),
        "conditionals": sum(i.opcode == "conditional" for i in module.instructions()),
        "loops_of_unknown_length": traffic.unknown_loops(module),
    }


def _least_ms(kernel: Kernel, target: Target) -> float:
    """The time of a kernel at the target's rates, of memory or of products."""
    rate = target.flops_per_second[_DTYPES.get(kernel.dtype, "float32")]
    return 1e3 * max(kernel.bytes / target.bytes_per_second, kernel.flops / rate)


def _likely_ms(kernel: Kernel, target: Target) -> float:
    """The time of a kernel under the assumptions above."""
    start = EXCHANGE_MS if kernel.kind == traffic.COLLECTIVE else START_MS
    return start + _least_ms(kernel, target) / SHARE
