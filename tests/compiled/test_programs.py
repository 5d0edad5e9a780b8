"""The programs that a GPU or a TPU would run, compiled where there is none.

ceilings.json holds for the version of JAX that it names; requirements-compiled.txt
installs that one. A method without a ceiling is held to everything else.
"""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import pytest

from rsmatch_jax.methods.catalogue import METHODS

CEILINGS = json.loads((pathlib.Path(__file__).parent / "ceilings.json").read_text())
FULL = ("fixmatch", "rsmatch")  # by WRN-28-2, the others by WRN-10-2
# The dispatches of every method: (target, dtype, steps).
DISPATCHES = [
    *(("h100", "bfloat16", steps) for steps in (1, 16)),
    *(("h100:8", "bfloat16", steps) for steps in (1, 16)),
    ("h100", "float32", 1),
]
PROGRAMS = [
    *((method, *dispatch) for method in METHODS for dispatch in DISPATCHES),
    ("rsmatch", "v5e", "bfloat16", 1),
]


def compiled(tmp_path, method, target, dtype, steps, *flags):
    """What `bench compiled` counts, in a process without the suite's flags of XLA."""
    wide = method in FULL and target != "v5e"
    network = "wrn_28_2" if wide else "wrn_10_2"
    command = [sys.executable, "-m", "rsmatch_jax.bench", "compiled"]
    command += [f"--target={target}", f"--method={method}", f"--steps={steps}"]
    command += [f"--config.model.classifier={network}", f"--out={tmp_path}/counts.json"]
    command += [f"--config.model.dtype={dtype}", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    content = json.loads((tmp_path / "counts.json").read_text())
    (counts,) = content["programs"]
    return counts


@pytest.mark.parametrize(("method", "target", "dtype", "steps"), PROGRAMS)
def test_the_program(tmp_path, method, target, dtype, steps):
    """The host waits for nothing, the state is updated in place, no parameter is moved
    twice, and the program is not longer than it was."""
    counts = compiled(tmp_path, method, target, dtype, steps)
    assert counts["steps_per_dispatch"] == steps
    assert counts["conditionals"] == 0
    assert counts["loops_of_unknown_length"] == 0 or target == "v5e"  # its own affair
    assert counts["host_transfers"] == 0
    assert counts["aliased_leaves"] == counts["state_leaves"]
    assert counts["copies_of_a_parameter"] <= 1
    check_ceilings(counts, f"{method} {target} {dtype} {steps}")


def test_separate_forward_passes(tmp_path):
    flag = "--config.train.weak_forward=separate"
    for method in FULL:
        counts = compiled(tmp_path, method, "h100", "bfloat16", 1, flag)
        check_ceilings(counts, f"{method} separate")


def check_ceilings(counts, name):
    assert importlib.metadata.version("jax") == CEILINGS["jax"]
    values = {
        "kernels": counts["totals"]["kernels"],
        "gigabytes": counts["totals"]["bytes"] / 1e9,
        "collectives": counts["collectives"]["count"],
    }
    for key, most in CEILINGS["programs"].get(name, {}).items():
        assert values[key] <= most, f"{name}: {values[key]:g} {key}, at most {most}"
