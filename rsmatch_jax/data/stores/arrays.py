"""Decoded images as arrays: the form in which every dataset reaches a run.

On disk a dataset is a folder of `images.npy`, `labels.npy`, for a pool also
`generators.npy`, and `meta.json`. scikit-learn's digits and the made-up set `fake` need
no folder.
"""

import dataclasses
import hashlib
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data.stores import encoded
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.errors import RequestError

META = "meta.json"
DIGITS_TEST_SIZE = 500
ALIGNMENT = 64  # bytes
REAL_ORIGIN = "real"  # stands for real images in reports; no generator may be called so


@dataclasses.dataclass(frozen=True)
class ImageArrays:
    """Images of one split or pool.

    images: uint8 [N, H, W, C], C = 1 or 3, possibly memory-mapped; or encoded images,
      which are decoded when they are indexed.
    labels: int32 [N], positions in class_names.
    generators: int32 [N], positions in generator_names; None for real images.
    """

    name: str
    images: np.ndarray | EncodedImages
    labels: np.ndarray
    class_names: tuple[str, ...]
    generators: np.ndarray | None = None
    generator_names: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def counts(self) -> np.ndarray:
        """Returns the number of images of each class, int64 [K]."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def check(self):
        """Raises ValueError if arrays have wrong dtypes, shapes or values."""
        dtype, shape = self.images.dtype, self.images.shape
        if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
            raise ValueError(f"images are {dtype} {shape}")
        for what, column, names in (
            ("labels", self.labels, self.class_names),
            ("generators", self.generators, self.generator_names),
        ):
            if column is None:
                continue
            if column.dtype != np.int32 or column.shape != shape[:1]:
                raise ValueError(f"{what} are {column.dtype} {column.shape}")
            if shape[0] and not 0 <= column.min() <= column.max() < len(names):
                raise ValueError(f"{what} are outside 0..{len(names) - 1}")


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Returns uninitialised uint8, aligned so that JAX on a CPU need not copy it."""
    size = math.prod(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size].reshape(shape)


def save(folder: str, data: ImageArrays, extra: Mapping[str, Any] | None = None):
    """Writes a dataset to a folder. Of encoded images it has the places alone.

    `meta.json` comes last, so it marks a complete folder. It has the names, the arrays'
    shapes and checksums, and `extra`.
    """
    os.makedirs(folder, exist_ok=True)
    content = {"name": data.name, "class_names": data.class_names}
    columns = {"images": data.images, "labels": data.labels.astype(np.int32)}
    if isinstance(data.images, EncodedImages):
        columns["places"] = columns.pop("images").places
        content["shards"] = [os.path.basename(path) for path in data.images.files]
    if data.generators is not None:
        columns["generators"] = data.generators.astype(np.int32)
    content |= {"generator_names": data.generator_names, "files": {}}
    for key, column in columns.items():
        path = os.path.join(folder, f"{key}.npy")
        np.save(path, column, allow_pickle=False)
        content["files"][f"{key}.npy"] = {
            "shape": column.shape,
            "dtype": str(column.dtype),
            "sha256": _sha256(path),
        }
    files.write_json(os.path.join(folder, META), {**content, **(extra or {})})


def is_array_folder(folder: str) -> bool:
    """Whether a folder has a meta.json."""
    return os.path.isfile(os.path.join(folder, META))


def load_meta(folder: str) -> dict[str, Any]:
    """Returns the content of a folder's meta.json."""
    meta = files.read_json(os.path.join(folder, META))
    if meta is None:
        raise RequestError(f"{folder} is no array folder: it has no {META}")
    return meta


def load(folder: str, shards: str = "", size: int | None = None) -> ImageArrays:
    """Opens what `save` wrote, memory-mapped, after checking all checksums.

    Nothing that is stored is ever run.

    Args:
        shards: the folder with the files of encoded images.
        size: of the views of encoded images; None for decoded ones.

    Raises:
        RequestError: a file is missing, damaged, or does not fit the others.
    """
    meta = load_meta(folder)
    try:
        columns = {
            file.removesuffix(".npy"): _column(folder, file, entry["sha256"])
            for file, entry in meta["files"].items()
        }
        if size is not None:
            places = columns.pop("places")
            columns["images"] = encoded.locate(shards, meta["shards"], places, size)
        names = {key: tuple(meta[key]) for key in ("class_names", "generator_names")}
        data = ImageArrays(name=meta["name"], **columns, **names)
        data.check()
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        # A meta.json or .npy file of another kind, or one that holds objects.
        raise RequestError(
            f"{folder} is no complete array folder ({e}); delete it, so that it is "
            "made again, or restore it"
        ) from e
    return data


def _column(folder: str, file: str, sha256: str) -> np.ndarray:
    path = os.path.join(folder, file)
    if not os.path.isfile(path) or _sha256(path) != sha256:
        raise ValueError(f"{file} is missing, or its checksum differs from {META}")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError) as e:
        raise ValueError(f"{file} is no array of numbers: {e}") from None


def _sha256(path: str) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Repeats a grey channel three times; colour images stay as they are.

    uint8 [N, H, W, 1 or 3] to uint8 [N, H, W, 3].
    """
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images


def digits(split: str) -> ImageArrays:
    """Returns scikit-learn's handwritten digits: 1,797 scans, 8 x 8, 17 grey levels.

    The split is fixed and stratified: 1,297 `train`, 500 `test`. It is random, because
    the scans are ordered by writer. Grey level v of 0..16 becomes round(255 v / 16).
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
    rows = np.sort({"train": train, "test": test}[split])
    return ImageArrays(
        name="digits",
        images=grey_levels_to_uint8(raw.images[rows])[..., None],
        labels=raw.target[rows].astype(np.int32),
        class_names=tuple(str(c) for c in range(10)),
    )


def grey_levels_to_uint8(levels: np.ndarray) -> np.ndarray:
    """Maps grey levels 0..16 of the digit scans to uint8 0..255."""
    return np.rint(levels * (255 / 16)).astype(np.uint8)


def fake(split: str, num_classes: int = 10, size: int = 8) -> ImageArrays:
    """Returns a tiny made-up set for smoke runs: a noisy colour for each class.

    64 training and 32 test images per class; uint8 [N, size, size, 3].
    """
    per_class, seed = {"train": (64, 0), "test": (32, 1)}[split]
    return _fake(per_class, num_classes, size, seed, noise=40)


def fake_pool(num_classes: int = 10, size: int = 8) -> ImageArrays:
    """Returns a pool for `fake`: the same colours with less noise, two generators."""
    pool = _fake(64, num_classes, size, seed=3, noise=10)
    return dataclasses.replace(
        pool,
        generators=np.arange(len(pool.labels), dtype=np.int32) // num_classes % 2,
        generator_names=("generator_a", "generator_b"),
    )


def _fake(
    per_class: int, num_classes: int, size: int, seed: int, noise: int
) -> ImageArrays:
    labels = np.tile(np.arange(num_classes, dtype=np.int32), per_class)
    colours = np.random.default_rng(2).integers(40, 216, (num_classes, 1, 1, 3))
    shape = (len(labels), size, size, 3)
    noises = np.random.default_rng(seed).integers(-noise, noise, shape)
    return ImageArrays(
        name="fake",
        images=(colours[labels] + noises).astype(np.uint8),
        labels=labels,
        class_names=tuple(f"class_{c}" for c in range(num_classes)),
    )
