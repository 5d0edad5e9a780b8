"""Devices that are not there, for which JAX compiles all the same.

Each has a text file of published facts in targets/. A GPU's compiler comes with JAX's
CUDA plugin, a TPU's with libtpu; neither needs the device.
"""

import dataclasses
import importlib.resources
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import topologies

from rsmatch_jax.errors import RequestError, one_line

_NEEDS = {"cuda": "'jax[cuda12]'", "tpu": "'jax[tpu]'"}
MOST = 64  # GPUs of one description


@dataclasses.dataclass(frozen=True)
class Target:
    """The facts of a kind of device and a number of them.

    bytes_per_second: of its memory. flops_per_second: {dtype of a network: rate of its
    dense products}. usable_share: of the memory, as JAX reserves it. xla: what XLA
    asks a GPU for. topology: {number of TPU cores: their name}.
    """

    key: str
    count: int
    name: str
    source: str
    platform: str  # "cuda" or "tpu"
    bytes_per_second: float
    flops_per_second: Mapping[str, float]
    memory_bytes: int
    usable_share: float
    xla: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    topology: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def devices(self) -> list[jax.Device]:
        """Describes the devices to JAX. Raises RequestError without their compiler."""
        options: dict[str, Any] = {
            "topology_name": "",
            "target_config": _proto(self.xla),
            "topology": f"1x1x{self.count}",
        }
        if self.platform == "tpu":
            os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to ask
            sizes = (int(size) for size in self.topology if int(size) >= self.count)
            options = {"topology_name": self.topology[str(min(sizes))]}
        try:
            described = topologies.get_topology_desc(platform=self.platform, **options)
        except Exception as e:  # the plugin's own kinds of errors
            raise RequestError(
                f"--target={self.key}: JAX has no compiler for it here "
                f"({one_line(e)}); pip install {_NEEDS[self.platform]}, which needs no "
                "device"
            ) from e
        return list(described.devices[: self.count])


def read(text: str) -> Target:
    """Returns the target of "name" or "name:count"; RequestError if there is none."""
    folder = importlib.resources.files("rsmatch_jax.runtime") / "targets"
    names = sorted(f.name.removesuffix(".json") for f in folder.iterdir())
    key, _, count = text.partition(":")
    if key not in names:
        raise RequestError(f"--target={text}: choose one of {', '.join(names)}")
    facts = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
    most = max(map(int, facts.get("topology", [MOST])))
    if count and not (count.isdigit() and 1 <= int(count) <= most):
        raise RequestError(f"--target={text}: {key} goes with 1 to {most} devices")
    return Target(key=key, count=int(count or 1), **facts)


def _proto(fields: Mapping[str, Any]) -> str:
    """Returns protobuf's text form of nested fields."""

    def field(name, value):
        if isinstance(value, Mapping):
            return f"{name} {{ {_proto(value)} }}"
        return f"{name}: {json.dumps(value)}"

    return " ".join(field(name, value) for name, value in fields.items())
