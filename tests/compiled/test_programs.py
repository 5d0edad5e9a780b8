"""The programs that a GPU or a TPU would run, compiled where there is none.

ceilings.json holds for the version of JAX that it names; requirements-compiled.txt
installs that one. A method without a ceiling is held to everything else.
"""

import collections
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from rsmatch_jax.bench.harness import hlo, traffic
from rsmatch_jax.methods.catalogue import METHODS

CEILINGS = json.loads((pathlib.Path(__file__).parent / "ceilings.json").read_text())
ROOT = pathlib.Path(__file__).parents[2]
FULL = ("fixmatch", "rsmatch")  # by WRN-28-2, the others by WRN-10-2
STEPS = 16  # of a dispatch
# Machine code comes after the module that is counted: a quarter of the time less.
QUICK = "--xla_backend_optimization_level=0"
SEPARATE = "--config.train.weak_forward=separate"


def compiled(folder, method, target, *flags, dtype="bfloat16", steps=1):
    """What `bench compiled` counts, and the module, in a process without the suite's
    flags of XLA."""
    wide = method in FULL and target != "v5e"
    network = "wrn_28_2" if wide else "wrn_10_2"
    command = [sys.executable, "-m", "rsmatch_jax.bench", "compiled"]
    command += [f"--target={target}", f"--method={method}", f"--steps={steps}"]
    command += [f"--out={folder}/counts.json", f"--module={folder}/module.txt"]
    command += [f"--config.model.classifier={network}", f"--config.model.dtype={dtype}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK}
    done = subprocess.run(
        [*command, *flags], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (counts,) = json.loads((folder / "counts.json").read_text())["programs"]
    return counts, hlo.Module((folder / "module.txt").read_text())


def check(counts, name):
    """The host waits for nothing, the state is updated in place, no parameter is moved
    twice, and the program is not longer than it was."""
    assert counts["conditionals"] == counts["host_transfers"] == 0
    # A TPU decides for itself when a loop ends.
    assert counts["loops_of_unknown_length"] == 0 or name.startswith("v5e")
    assert counts["aliased_leaves"] == counts["state_leaves"]
    assert counts["copies_of_a_parameter"] <= 1
    assert importlib.metadata.version("jax") == CEILINGS["jax"]
    values = {
        "kernels": counts["totals"]["kernels"],
        "gigabytes": counts["totals"]["bytes"] / 1e9,
        "collectives": counts["collectives"]["count"],
    }
    print(f"{name}: {values}")  # for a new ceiling: pytest -rP
    for key, most in CEILINGS["programs"].get(name, {}).items():
        assert values[key] <= most, f"{name}: {values[key]:g} {key}, at most {most}"


def arithmetic(module, steps):
    """The floating-point operations of each kernel, but for those on single numbers,
    which the metrics are."""
    kernels = collections.Counter()
    for kernel in traffic.kernels(module, []):
        i = kernel.instruction
        parts = module.computations[i.called()[0]] if i.opcode == "fusion" else [i]
        operations = [
            f"{part.opcode} {part.shape}"
            for part in parts
            if re.match(r"\(?(bf16|f32)\[(?!1(,1)*\])\d", part.shape)
            and part.opcode not in MOVES
            and f"f32[{steps}]" not in part.shape
        ]
        if operations:
            kernels["; ".join(sorted(operations))] += 1
    return kernels


MOVES = {"parameter", "constant", "broadcast", "bitcast", "copy", "slice", "reshape"}
MOVES |= {"transpose", "get-tuple-element", "dynamic-slice", "dynamic-update-slice"}


def test_a_tpu(tmp_path):
    """First of all, because it takes longest."""
    counts, _ = compiled(tmp_path, "rsmatch", "v5e")
    check(counts, "v5e rsmatch")


@pytest.mark.parametrize("target", ["h100", "h100:8"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_and_a_dispatch_of_many(tmp_path, method, target):
    """Both compute with the same kernels, so that a GPU has the same bits however its
    steps are dealt out."""
    one, single = compiled(tmp_path, method, target)
    check(one, f"{target} {method}")
    many, loop = compiled(tmp_path, method, target, steps=STEPS)
    assert many["steps_per_dispatch"] == STEPS
    check(many, f"{target} {method} {STEPS} steps")
    assert arithmetic(single, STEPS) == arithmetic(loop, STEPS)


@pytest.mark.parametrize("method", METHODS)
def test_float32(tmp_path, method):
    counts, _ = compiled(tmp_path, method, "h100", dtype="float32")
    check(counts, f"h100 {method} float32")


@pytest.mark.parametrize("method", FULL)
def test_separate_forward_passes(tmp_path, method):
    counts, _ = compiled(tmp_path, method, "h100", SEPARATE)
    check(counts, f"h100 {method} separate")


def test_whether_a_run_fits():
    """`--plan` on the digits, by the real compiler."""
    command = [sys.executable, str(ROOT / "launch.py"), "--config=digits", "--plan"]
    command += ["--target=h100:2", "--config.method.name=fixmatch"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "on 2 NVIDIA H100 SXM5, 80 GB devices" in done.stdout
    assert "fits: compiled, not run, for 2 NVIDIA H100" in done.stdout
