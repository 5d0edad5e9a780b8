"""Decoded images as arrays: the one form in which every dataset reaches the run.

A dataset is a folder of `images.npy`, `labels.npy`, for a pool `generators.npy`, and
`meta.json` with names, shapes and checksums. Arrays are memory-mapped, so opening one
costs no memory. Two small datasets need no folder: scikit-learn's digits and `fake`.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rsmatch_jax.errors import RequestError

META = "meta.json"
DIGITS_TEST_SIZE = 500
ALIGNMENT = 64  # bytes
REAL_ORIGIN = "real"  # of images that no generator has made; no generator's name


@dataclasses.dataclass(frozen=True)
class ImageArrays:
    """Decoded images of one split or pool.

    images: uint8 [N, H, W, C], C = 1 or 3, possibly memory-mapped; or
      `encoded.EncodedImages`, which look like it and are decoded where they are read.
    labels: int32 [N], positions in class_names.
    generators: int32 [N], positions in generator_names; None for real images.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    generators: np.ndarray | None = None
    generator_names: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def counts(self) -> np.ndarray:
        """Images per class, int64 [K]."""
        return np.bincount(self.labels, minlength=self.num_classes)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Uninitialised uint8, at an address that JAX on a CPU takes an array over from
    without a copy."""
    size = math.prod(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size].reshape(shape)


def save(folder: str, data: ImageArrays, extra: Mapping[str, Any] | None = None):
    """Writes `data` to `folder`; `meta.json` comes last, so it marks a whole folder.

    `extra` is stored under its own keys in meta.json (how a pool was made, licences).
    """
    columns = {"images": data.images, "labels": data.labels.astype(np.int32)}
    if data.generators is not None:
        columns["generators"] = data.generators.astype(np.int32)
    meta = {
        "name": data.name,
        "class_names": list(data.class_names),
        "generator_names": list(data.generator_names),
    }
    save_columns(folder, columns, meta, extra)


def save_columns(
    folder: str,
    columns: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
):
    """Writes <column>.npy each, and last meta.json: `meta`, the files' shapes and
    checksums, `extra`."""
    os.makedirs(folder, exist_ok=True)
    files = {}
    for column, array in columns.items():
        path = os.path.join(folder, f"{column}.npy")
        np.save(path, array, allow_pickle=False)
        files[f"{column}.npy"] = {
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "sha256": _sha256(path),
        }
    temporary = os.path.join(folder, META + ".tmp")
    with open(temporary, "w") as f:
        json.dump({**meta, "files": files, **(extra or {})}, f, indent=1)
        f.write("\n")
    os.replace(temporary, os.path.join(folder, META))


def is_array_folder(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, META))


def load_meta(folder: str) -> dict[str, Any]:
    """The folder's meta.json as a dict."""
    path = os.path.join(folder, META)
    try:
        with open(path) as f:
            return json.load(f)
    except FileNotFoundError:
        raise RequestError(f"{folder} is no array folder: it has no {META}") from None
    except json.JSONDecodeError as e:
        raise RequestError(f"{path} is damaged ({e}); delete {folder}") from None


def load(folder: str) -> ImageArrays:
    """Opens an array folder, memory-mapped, after checking shapes and checksums.

    Raises: RequestError naming what is not so. Nothing that is stored is ever run.
    """
    return load_columns(folder, _from_columns)


def load_columns(
    folder: str, make: Callable[[dict[str, Any], dict[str, np.ndarray]], Any]
) -> Any:
    """make(meta.json, columns) of what `save_columns` wrote: the columns memory-mapped,
    after checking their checksums.

    Raises: RequestError as `load`, also for what `make` stumbles over.
    """
    meta = load_meta(folder)
    try:
        columns = {
            file.removesuffix(".npy"): _column(folder, file, expected)
            for file, expected in meta["files"].items()
        }
        return make(meta, columns)
    except RequestError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        # A meta.json or .npy file of something else altogether, or of objects.
        raise RequestError(
            f"{folder} is no whole array folder ({e}); delete it, then it is made "
            "anew, or restore it"
        ) from e


def check_classes(what: str, column: np.ndarray, count: int, names: tuple[str, ...]):
    """Raises ValueError unless a column is int32 [count], of positions in names."""
    if column.dtype != np.int32 or column.shape != (count,):
        raise ValueError(f"{what} are {column.dtype} {column.shape}")
    if count and not 0 <= column.min() <= column.max() < len(names):
        raise ValueError(f"{what} are none of 0..{len(names) - 1}")


def _from_columns(meta: dict[str, Any], columns: dict[str, np.ndarray]) -> ImageArrays:
    data = ImageArrays(
        name=meta["name"],
        class_names=tuple(meta["class_names"]),
        generator_names=tuple(meta["generator_names"]),
        **columns,
    )
    images = data.images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(f"images are {images.dtype} {images.shape}")
    check_classes("labels", data.labels, len(images), data.class_names)
    if data.generators is not None:
        names = data.generator_names
        check_classes("generators", data.generators, len(images), names)
    return data


def _column(folder: str, file: str, expected: Mapping[str, Any]) -> np.ndarray:
    path = os.path.join(folder, file)
    if not os.path.isfile(path) or _sha256(path) != expected["sha256"]:
        raise RequestError(
            f"{path} is missing or not what {META} says (size or checksum); "
            f"delete {folder} and it is made anew, or restore the file"
        )
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError) as e:
        raise RequestError(
            f"{path} is no array of numbers ({e}); delete {folder}, or restore the file"
        ) from None


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Repeats a grey channel three times; colour images pass through unchanged.

    Args: uint8 [N, H, W, 1 or 3]. Returns: uint8 [N, H, W, 3].
    """
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images


def digits(split: str) -> ImageArrays:
    """scikit-learn's 1,797 scans of handwritten digits, 8 x 8, 17 grey levels.

    The split is fixed, stratified and random (the scans are ordered by writer): 1,297
    `train`, 500 `test`. Grey level v of 0..16 becomes round(255 v / 16).
    """
    from sklearn.datasets import load_digits  # lazy: scikit-learn takes a second
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    train, test = train_test_split(
        np.arange(len(raw.target)),
        test_size=DIGITS_TEST_SIZE,
        stratify=raw.target,
        random_state=0,
    )
    keep = np.sort({"train": train, "test": test}[split])
    return ImageArrays(
        name="digits",
        images=grey_levels_to_uint8(raw.images[keep])[..., None],
        labels=raw.target[keep].astype(np.int32),
        class_names=tuple(str(c) for c in range(10)),
    )


def grey_levels_to_uint8(levels: np.ndarray) -> np.ndarray:
    """Grey levels 0..16 of the digit scans as uint8 0..255."""
    return np.rint(levels * (255 / 16)).astype(np.uint8)


def fake(split: str, num_classes: int = 10, size: int = 8) -> ImageArrays:
    """A tiny made-up set for smoke runs: class-dependent colours under noise.

    64 training and 32 test images per class; uint8 [N, size, size, 3].
    """
    per_class, seed = {"train": (64, 0), "test": (32, 1)}[split]
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(num_classes, dtype=np.int32), per_class)
    colours = np.random.default_rng(2).integers(40, 216, (num_classes, 1, 1, 3))
    noise = rng.integers(-40, 40, (len(labels), size, size, 3))
    return ImageArrays(
        name="fake",
        images=(colours[labels] + noise).astype(np.uint8),
        labels=labels,
        class_names=tuple(f"class_{c}" for c in range(num_classes)),
    )


def fake_pool(num_classes: int = 10, size: int = 8) -> ImageArrays:
    """Synthetic companions of `fake`: the same colours, less noise, two generators."""
    labels = np.tile(np.arange(num_classes, dtype=np.int32), 64)
    rng = np.random.default_rng(3)
    colours = np.random.default_rng(2).integers(40, 216, (num_classes, 1, 1, 3))
    noise = rng.integers(-10, 10, (len(labels), size, size, 3))
    return ImageArrays(
        name="fake",
        images=(colours[labels] + noise).astype(np.uint8),
        labels=labels,
        class_names=tuple(f"class_{c}" for c in range(num_classes)),
        generators=np.arange(len(labels), dtype=np.int32) // num_classes % 2,
        generator_names=("generator_a", "generator_b"),
    )


def _sha256(path: str) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
