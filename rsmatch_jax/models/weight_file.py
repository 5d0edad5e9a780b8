"""Reads .safetensors files, and ResNets in them by torchvision's and timm's names.

A file holds arrays by name and nothing that could run: 8 bytes, the length of the
header, little-endian; the header, JSON {name: {dtype, shape, data_offsets}}; the
arrays, row by row, little-endian. Written out here, because the format needs no more
than that, and the package of that name would be one more dependency of every run.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rsmatch_jax.errors import RequestError, one_line

SUFFIX = ".safetensors"
MOST_HEADER = 100_000_000  # bytes, the limit of the format
# Weights are floats; other arrays, such as counters of batches, are left out.
DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": jnp.bfloat16}
LISTED = 4  # names in a message

_BLOCK = re.compile(r"stage(\d+)_block(\d+)")
_STEM = {"stem": "conv1", "bn": "bn1"}
_SHORTCUT = {"shortcut": "downsample.0", "bn_shortcut": "downsample.1"}
_LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_LEAF |= {"mean": "running_mean", "var": "running_var"}


def read(path: str) -> dict[str, np.ndarray]:
    """Returns {name: array} of the floats in a .safetensors file, from disk as they are
    read; raises RequestError if it is none."""
    try:
        content = np.memmap(path, np.uint8, "r")
        length = int(content[:8].view("<u8")[0])
        if not 2 <= length <= min(MOST_HEADER, content.size - 8):
            raise ValueError(f"its header of {length} bytes does not fit")
        header = json.loads(bytes(content[8 : 8 + length]))
        header.pop("__metadata__", None)
        data = content[8 + length :]
        return {
            name: _array(name, data, **entry)
            for name, entry in header.items()
            if entry["dtype"] in DTYPES
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as e:
        reason = one_line(e)
    except RecursionError:
        reason = "its header is too deep"
    raise RequestError(f"{path} is no complete {SUFFIX} file: {reason}") from None


def _array(
    name: str, data: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]
) -> np.ndarray:
    kind, (begin, end) = np.dtype(DTYPES[dtype]), data_offsets
    if any(type(n) is not int or n < 0 for n in (*shape, begin, end)):
        raise ValueError(f"{name} has sizes that are none")
    if end > data.size or end - begin != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{name} has other bytes than its shape {shape} needs")
    return np.frombuffer(data[begin:end].tobytes(), kind).reshape(shape)


def resnet(
    path: str, like: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns a ResNet's parameters and running statistics from a file, float32, and
    the names that it has beside them, such as those of its head.

    like: {path in this package's encoder, such as stage1_block0/conv1/kernel: shape}.
    Raises RequestError, with names and shapes, if the file holds another network.
    """
    arrays = read(path)
    taken, missing, differing = {}, [], []
    names = {place: _torch_name(place) for place in like}
    for place, name in names.items():
        if name not in arrays:
            missing.append(name)
            continue
        array = arrays[name].astype(np.float32)
        if place.endswith("kernel") and array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)  # from [out, in, height, width]
        if array.shape != like[place]:
            theirs = tuple(arrays[name].shape)
            differing.append(f"{name} is {theirs}, not {_torch_shape(like[place])}")
        taken[place] = array
    others = sorted({*arrays} - {*names.values()})
    problems = []
    if missing:
        problems.append(f"it lacks {listed(missing)}")
    if differing:
        problems.append(listed(differing))
    if problems and others:
        problems.append(f"it has {listed(others)} beside")
    if problems:
        raise RequestError(f"{path} holds another network: {'; '.join(problems)}")
    return taken, others


def listed(names: list[str]) -> str:
    """Returns the first names, and how many more there are."""
    more = len(names) - LISTED
    text = ", ".join(names[:LISTED])
    return f"{text} and {more} more" if more > 0 else text


def _torch_name(place: str) -> str:
    *modules, leaf = place.split("/")
    block = _BLOCK.fullmatch(modules[0])
    if block:
        part = _SHORTCUT.get(modules[1], modules[1])
        return f"layer{block[1]}.{block[2]}.{part}.{_LEAF[leaf]}"
    return f"{_STEM[modules[0]]}.{_LEAF[leaf]}"


def _torch_shape(shape: tuple[int, ...]) -> tuple[Any, ...]:
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
