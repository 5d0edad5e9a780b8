"""The RS-SSL task (section 3 of the paper): labelled, unlabelled and synthetic images.

    labelled     `labels_per_class` real images of each class
    unlabelled   all real training images, also the labelled ones and those of unknown
                 class (label -1); then a dataset's unlabelled split. Synthetic
                 images replace a part of them, or are added to them
    validation   real training images that are held out from both

Labelled images are chosen as in USB (semilearn datasets/utils.py): one legacy generator
shuffles the images class by class, and the first of each class are labelled.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsmatch_jax.data import pool_choice
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.errors import RequestError

Images = arrays.Images
REAL, UNKNOWN = arrays.REAL, arrays.UNKNOWN  # origins that are no generator


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of a run as indices, int64, into the training images or the pool."""

    labeled: np.ndarray
    validation: np.ndarray
    unlabeled_real: np.ndarray  # starts with `labeled`
    # Of the pool. In the unlabelled set these follow the real ones and the dataset's
    # unlabelled split, which is used whole.
    unlabeled_synthetic: np.ndarray


@dataclasses.dataclass(frozen=True)
class PictureFiles:
    """The files of some images. names: str [N], paths below their source. digests: S32
    [N], equal for equal pixels."""

    names: np.ndarray
    digests: np.ndarray

    def at(self, rows: np.ndarray) -> "PictureFiles":
        return PictureFiles(self.names[rows], self.digests[rows])

    def followed_by(self, other: "PictureFiles") -> "PictureFiles":
        names = np.concatenate([self.names, other.names])
        return PictureFiles(names, np.concatenate([self.digests, other.digests]))


@dataclasses.dataclass(frozen=True)
class Task:
    """The images of a run: lab_* [L, ...], unl_* [N, ...], all of one type."""

    name: str  # the real dataset's
    split: Split
    class_names: tuple[str, ...]
    generator_names: tuple[str, ...]
    lab_images: Images
    lab_labels: np.ndarray
    unl_images: Images  # starts with the labelled ones
    # For evaluation only: classes int [N], -1 = unknown; origins int32 [N], REAL,
    # UNKNOWN or a position in generator_names.
    unl_labels: np.ndarray
    unl_origins: np.ndarray
    val_images: Images
    val_labels: np.ndarray
    test_images: Images
    test_labels: np.ndarray
    # Of a user's pictures: {labelled, unlabelled, validation, test: the files}.
    files: Mapping[str, PictureFiles] = dataclasses.field(default_factory=dict)
    # How a user's collected pictures are stored: compression.Jpeg, which needs Pillow,
    # that a GPU's machine may lack; None if as no JPEG.
    compressed: Sequence[Any] = ()
    notes: tuple[str, ...] = ()  # lines about the images, for the user

    @property
    def encoded(self) -> bool:
        """Whether images are decoded when they are read, instead of in advance."""
        return isinstance(self.unl_images, EncodedImages)

    @property
    def unl_synthetic(self) -> np.ndarray:
        """bool [N]; an image of unknown origin is not among them."""
        return self.unl_origins >= 0

    @property
    def num_synthetic(self) -> int | None:
        """The number of synthetic images, None unless all origins are known."""
        unknown = np.any(self.unl_origins == UNKNOWN)
        return None if unknown else int(self.unl_synthetic.sum())

    @property
    def unl_real(self) -> np.ndarray:
        """bool [N]; an image of unknown origin is not among them."""
        return self.unl_origins == REAL


def make_split(
    train: ImageArrays,
    pool: ImageArrays | None,
    *,
    labels_per_class: int | None,
    validation_per_class: int = 0,
    ratio: float = 0.0,
    mode: str = "replace",
    mix: bool = True,
    seed: int = 0,
    unlabelled: ImageArrays | None = None,
) -> Split:
    """Chooses the images of a run; RequestError if there are too few.

    Class c has N_c unlabelled real images and gets S_c synthetic, rounded half up:
      mode "replace" (paper v1): S_c = ratio * N_c. They replace as many real images,
        but no labelled ones. A larger ratio replaces a superset.
      mode "add" (paper v2): S_c / (N_c + S_c) = ratio. No real image leaves. A class
        that the pool lacks gets none.
    M images of unknown class (all of `unlabelled`, those of label -1) count in "add" as
    M / K more of every class; "replace", which goes class by class, refuses them.

    Args:
        labels_per_class: None for all images that have a label.
        mix: whether every generator gives the same number of images of a class.
            Without a pool the synthetic images are left out, and nothing else changes.
        unlabelled: the dataset's unlabelled split. Only its number of images matters.
    """
    if pool is not None:
        pool_choice.check(pool, train)
    nameless = np.flatnonzero(train.labels < 0)
    more = len(nameless) + (0 if unlabelled is None else len(unlabelled.labels))
    if mode == "replace" and ratio > 0 and more:
        raise RequestError(
            f"data.synthetic_mode=replace replaces images class by class, but {more} "
            f"unlabelled images of {train.name} are of unknown class: use "
            "data.synthetic_mode=add, or data.synthetic_ratio=0"
        )
    share = ratio if mode == "replace" else ratio / (1 - ratio)
    rng = np.random.RandomState(seed)
    _check_labels(train, labels_per_class, validation_per_class)
    labeled, validation, unlabeled, numbers = [], [], [], []
    for c in range(train.num_classes):
        members = np.flatnonzero(train.labels == c)
        rng.shuffle(members)
        end = len(members) - validation_per_class  # N_c
        count = end + more / train.num_classes
        numbers.append(math.floor(share * count + 0.5))  # S_c
        stop = end - numbers[c] if mode == "replace" else end
        lab = end if labels_per_class is None else labels_per_class
        if stop < lab:
            raise _too_few_to_replace(train.class_names[c], numbers[c], end, lab, ratio)
        labeled.append(members[:lab])
        unlabeled.append(members[lab:stop])
        validation.append(members[end:])
    synthetic = np.zeros(0, np.int64)
    if pool is not None and any(numbers):
        synthetic = pool_choice.choose(pool, numbers, mix, seed, mode == "replace")
    real = np.concatenate([*labeled, *unlabeled, nameless])
    return Split(np.concatenate(labeled), np.concatenate(validation), real, synthetic)


def make_task(
    train: ImageArrays,
    test: ImageArrays,
    pool: ImageArrays | None,
    split: Split,
    unlabelled: ImageArrays | None = None,
) -> Task:
    """Gathers the images of a split, uint8 [.., S, S, 3], or all encoded.

    unlabelled: all of its images follow the real training images in the unlabelled set.
    Their labels may be -1, their generators REAL or UNKNOWN; without generators they
    are real.
    """
    real = dataclasses.replace(train, generators=None, generator_names=())
    parts = [(real, split.unlabeled_real)]
    if unlabelled is not None:
        parts.append((unlabelled, np.arange(len(unlabelled.labels))))
    if pool is not None:
        parts.append((pool, split.unlabeled_synthetic))
    names = [name for data, _ in reversed(parts) for name in data.generator_names]
    generator_names = tuple(dict.fromkeys(names))
    return Task(
        name=train.name,
        split=split,
        class_names=train.class_names,
        generator_names=generator_names,
        lab_images=arrays.take(train.images, split.labeled),
        lab_labels=np.asarray(train.labels[split.labeled]),
        unl_images=arrays.joined([(data.images, rows) for data, rows in parts]),
        unl_labels=np.concatenate([data.labels[rows] for data, rows in parts]),
        unl_origins=np.concatenate(
            [_origins(data, rows, generator_names) for data, rows in parts]
        ),
        val_images=arrays.take(train.images, split.validation),
        val_labels=np.asarray(train.labels[split.validation]),
        test_images=test.images,
        test_labels=np.asarray(test.labels),
    )


def _origins(
    data: ImageArrays, rows: np.ndarray, generator_names: Sequence[str]
) -> np.ndarray:
    """Returns origins, int32, as positions in `generator_names`, REAL or UNKNOWN."""
    if data.generators is None:
        return np.full(len(rows), REAL, np.int32)
    positions = [generator_names.index(name) for name in data.generator_names]
    # UNKNOWN = -2 and REAL = -1 pick the last two entries.
    table = np.array([*positions, UNKNOWN, REAL], np.int32)
    return table[data.generators[rows]]


def _too_few_to_replace(
    name: str, number: int, end: int, labeled: int, ratio: float
) -> RequestError:
    most = (end - labeled) / end
    ways = "lower data.synthetic_ratio or data.labels_per_class, or"
    bound = f"at most {most:.3f} is possible: {ways}"
    if not most:
        bound = "so none can be replaced: set data.synthetic_ratio=0 or"
    return RequestError(
        f"data.synthetic_ratio={ratio} replaces {number} of {end} unlabelled images of "
        f"class {name}, but the {labeled} labelled ones stay; {bound} use "
        "data.synthetic_mode=add"
    )


def _check_labels(train: ImageArrays, labeled: int | None, validation: int):
    """Raises RequestError that names the smallest class if it has too few images."""
    counts = train.counts()
    c = int(np.argmin(counts))
    if counts[c] >= (labeled or 1) + validation:
        return
    name = train.class_names[c]
    if not counts[c]:
        raise RequestError(
            f"{train.name} has no labelled training image of class {name}; add some, "
            "or leave the class out of the dataset"
        )
    keys = [] if labeled is None else [f"data.labels_per_class={labeled}"]
    keys += [f"data.validation_per_class={validation}"] if validation else []
    reason = f"class {name} has only {counts[c]} training images; lower this"
    raise RequestError(f"{' and '.join(keys)}, but {reason}")
