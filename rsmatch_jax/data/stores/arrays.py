"""Images as arrays: the form in which every dataset reaches a run.

On disk a folder of `images.npy`, `labels.npy`, maybe `generators.npy`, `meta.json`.
"""

import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data.stores import encoded
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.errors import RequestError

META = "meta.json"
ALIGNMENT = 64  # bytes
REAL_ORIGIN = "real"  # stands for real images in reports; no generator may be called so
REAL, UNKNOWN = -1, -2  # origins that are no generator

Images = np.ndarray | EncodedImages


@dataclasses.dataclass(frozen=True)
class ImageArrays:
    """Images of one split or pool."""

    name: str
    images: Images  # uint8 [N, H, W, 1 or 3], maybe memory-mapped
    labels: np.ndarray  # int32 [N], positions in class_names; -1 = unknown
    class_names: tuple[str, ...]
    # Origins, int32 [N]: positions in generator_names. In a set of unlabelled images
    # also REAL and UNKNOWN. None if all images are real.
    generators: np.ndarray | None = None
    generator_names: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def counts(self) -> np.ndarray:
        """Returns the number of images of each class, int64 [K]."""
        known = self.labels[self.labels >= 0]
        return np.bincount(known, minlength=self.num_classes)

    def labelled(self) -> "ImageArrays":
        """Returns the images of known class."""
        rows = np.flatnonzero(self.labels >= 0)
        if len(rows) == len(self.labels):
            return self
        return dataclasses.replace(
            self,
            images=take(self.images, rows),
            labels=self.labels[rows],
            generators=None if self.generators is None else self.generators[rows],
        )

    def check(self):
        """Raises ValueError if arrays have wrong dtypes, shapes or values."""
        dtype, shape = self.images.dtype, self.images.shape
        if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
            raise ValueError(f"images are {dtype} {shape}")
        columns = [("labels", self.labels, -1, self.class_names)]
        if self.generators is not None:
            columns.append(
                ("generators", self.generators, UNKNOWN, self.generator_names)
            )
        for what, column, lowest, names in columns:
            if column.dtype != np.int32 or column.shape != shape[:1]:
                raise ValueError(f"{what} are {column.dtype} {column.shape}")
            if shape[0] and not lowest <= column.min() <= column.max() < len(names):
                raise ValueError(f"{what} are outside {lowest}..{len(names) - 1}")


def take(images: Images, rows: np.ndarray | slice) -> Images:
    """Returns the images at some positions; encoded ones are not read."""
    if isinstance(images, EncodedImages):
        return images.take(rows)
    return np.asarray(images[rows])


def joined(parts: Sequence[tuple[Images, np.ndarray]]) -> Images:
    """Returns the images at the indices of all parts in a row."""
    places = [i.take(at) for i, at in parts if isinstance(i, EncodedImages)]
    if places:
        return functools.reduce(EncodedImages.followed_by, places)
    # One aligned array, because it may be most of a run's memory and JAX then takes it
    # over without a copy.
    count = sum(len(indices) for _, indices in parts)
    pixels, done = aligned((count, *parts[0][0].shape[1:])), 0
    for images, indices in parts:
        out = pixels[done : done + len(indices)]
        np.take(np.asarray(images), indices, axis=0, out=out, mode="clip")
        done += len(indices)
    return pixels


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Returns uninitialised uint8, aligned so that JAX on a CPU need not copy it."""
    size = math.prod(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size].reshape(shape)


def save(
    folder: str,
    data: ImageArrays,
    extra: Mapping[str, Any] | None = None,
    further: Mapping[str, np.ndarray] | None = None,
):
    """Writes a dataset to a folder; of encoded images only their places. `meta.json`
    has names, shapes, checksums and `extra`, and marks a complete folder. further:
    columns [N, ...] that `load` leaves alone."""
    os.makedirs(folder, exist_ok=True)
    fields = ("name", "class_names", "generator_names")
    meta: dict[str, Any] = {key: getattr(data, key) for key in fields}
    columns = {"labels": data.labels.astype(np.int32)}
    if isinstance(data.images, EncodedImages):
        columns["places"] = data.images.places
        meta["shards"] = [os.path.basename(path) for path in data.images.files]
    else:
        columns["images"] = data.images
    if data.generators is not None:
        columns["generators"] = data.generators.astype(np.int32)
    columns |= further or {}
    meta["files"] = {}
    for key, column in columns.items():
        path = os.path.join(folder, f"{key}.npy")
        np.save(path, column, allow_pickle=False)
        about = {"shape": column.shape, "dtype": str(column.dtype)}
        meta["files"][f"{key}.npy"] = {**about, "sha256": sha256(path)}
    files.write_json(os.path.join(folder, META), {**meta, **(extra or {})})


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

    Nothing that is stored is ever run. shards, size: the folder with the files of
    encoded images, and the size of their views; None for decoded images.
    """
    meta = load_meta(folder)
    try:
        columns = {
            file.removesuffix(".npy"): open_column(folder, file, entry["sha256"])
            for file, entry in meta["files"].items()
        }
        if size is None:
            images = columns["images"]
        else:
            images = encoded.locate(shards, meta["shards"], columns["places"], size)
        data = ImageArrays(
            name=meta["name"],
            images=images,
            labels=columns["labels"],
            class_names=tuple(meta["class_names"]),
            generators=columns.get("generators"),
            generator_names=tuple(meta["generator_names"]),
        )
        data.check()
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        # A meta.json or .npy file of another kind, or one that holds objects.
        reason = f"{folder} is no complete array folder ({e})"
        raise RequestError(f"{reason}; restore it, or make it again") from e
    return data


def open_column(folder: str, file: str, checksum: str) -> np.ndarray:
    """Opens a .npy file of a folder, memory-mapped; ValueError if it is damaged."""
    path = os.path.join(folder, file)
    if not os.path.isfile(path) or sha256(path) != checksum:
        raise ValueError(f"{file} is missing, or its checksum differs from {META}")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError) as e:
        raise ValueError(f"{file} is no array of numbers: {e}") from None


def sha256(path: str) -> str:
    """Returns the SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Repeats a grey channel: uint8 [N, H, W, 1 or 3] to uint8 [N, H, W, 3]."""
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images


def digits(split: str) -> ImageArrays:
    """Returns scikit-learn's handwritten digits: 1,797 scans, 8 x 8, 17 grey levels.

    The split is stratified: 1,297 `train`, 500 `test`. It is random but fixed, because
    the scans are ordered by writer. Grey level v of 0..16 becomes round(255 v / 16).
    """
    from sklearn.datasets import load_digits  # lazy: scikit-learn takes a second
    from sklearn.model_selection import train_test_split

    raw: Any = load_digits()
    rows = np.arange(len(raw.target))
    train, test = train_test_split(
        rows, test_size=500, stratify=raw.target, random_state=0
    )
    rows = np.sort({"train": train, "test": test}[split])
    return ImageArrays(
        name="digits",
        images=grey_levels_to_uint8(raw.images[rows])[..., None],
        labels=raw.target[rows].astype(np.int32),
        class_names=tuple("0123456789"),
    )


def grey_levels_to_uint8(levels: np.ndarray) -> np.ndarray:
    """Maps grey levels 0..16 of the digit scans to uint8 0..255."""
    return np.rint(levels * (255 / 16)).astype(np.uint8)


def fake(split: str, num_classes: int = 10, size: int = 8) -> ImageArrays:
    """Returns a made-up set for smoke runs: noisy colours, uint8 [N, size, size, 3].

    Per class 64 images of `train`, 32 of `test`, 64 of `pool`, which has less noise and
    two generators.
    """
    table = {"train": (64, 0, 40), "test": (32, 1, 40), "pool": (64, 3, 10)}
    per_class, seed, noise = table[split]
    labels = np.tile(np.arange(num_classes, dtype=np.int32), per_class)
    colours = np.random.default_rng(2).integers(40, 216, (num_classes, 1, 1, 3))
    shape = (len(labels), size, size, 3)
    noises = np.random.default_rng(seed).integers(-noise, noise, shape)
    generators = np.arange(len(labels), dtype=np.int32) // num_classes % 2
    is_pool = split == "pool"
    return ImageArrays(
        name="fake",
        images=(colours[labels] + noises).astype(np.uint8),
        labels=labels,
        class_names=tuple(f"class_{c}" for c in range(num_classes)),
        generators=generators if is_pool else None,
        generator_names=("generator_a", "generator_b") if is_pool else (),
    )
