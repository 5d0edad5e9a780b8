"""Describes the machine and the installed packages for a bench's JSON."""

import contextlib
import importlib.metadata
import json
import os
import platform
import sys
from typing import Any

import jax

from rsmatch_jax.errors import RunFailed
from rsmatch_jax.runtime import child, cores

# The last three are rivals that some benches compare with.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow", "tensorflow", "torch")


def describe(device: jax.Device) -> dict[str, Any]:
    """The timed device and the host."""
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "used": 1,
        "visible": jax.local_device_count(),
        "cpu": _cpu_model(),
        "cores": cores.count(),
        "load": os.getloadavg()[0],  # of all processes, over the last minute
    }


def in_child() -> dict[str, Any]:
    """{"device": `describe` of the first device, "versions"} from a child process,
    because a process that touches a device may hold all of its memory."""
    program = (
        "import json, jax; from rsmatch_jax.bench.harness import machine as m; "
        "x = m.describe(jax.local_devices()[0]), m.versions(); print(json.dumps(x))"
    )
    code, text = child.output([sys.executable, "-c", program])
    if code:
        raise RunFailed("JAX finds no device, see above")
    device, versions = json.loads(text.splitlines()[-1])
    return {"device": device, "versions": versions}


def versions() -> dict[str, str]:
    """{"python" or package: version} of what is installed."""
    result = {"python": platform.python_version()}
    for name in PACKAGES:
        # TensorFlow's CPU build is a distribution of another name.
        for distribution in (f"{name}-cpu", name):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                result[name] = importlib.metadata.version(distribution)
    return result


def _cpu_model() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
