"""The RS-SSL task (section 3 of the paper): labelled, unlabelled and synthetic images.

    labelled     `labels_per_class` real images of each class
    unlabelled   all real training images, also the labelled ones. Synthetic images of
                 the same classes replace a part of them, or are added to them
    validation   real training images that are held out from both

Labelled images are chosen as in USB (semilearn datasets/utils.py): one legacy generator
shuffles the images class by class, and the first of each class are labelled.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.errors import RequestError

Images = np.ndarray | EncodedImages
REAL, UNKNOWN = -1, -2  # origins that are no generator


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of a run as indices, int64, into the training images or the pool."""

    labeled: np.ndarray
    validation: np.ndarray
    unlabeled_real: np.ndarray  # starts with `labeled`
    unlabeled_synthetic: np.ndarray  # of the pool; follows in the unlabelled set


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
    labels_per_class: int,
    validation_per_class: int = 0,
    ratio: float = 0.0,
    mode: str = "replace",
    mix: bool = True,
    seed: int = 0,
) -> Split:
    """Chooses the images of a run; RequestError if there are too few, or `check_pool`.

    Class c has N_c unlabelled real images and gets S_c synthetic, rounded half up:
      mode "replace" (paper v1): S_c = ratio * N_c. They replace as many real images,
        but no labelled ones. A larger ratio replaces a superset.
      mode "add" (paper v2): S_c / (N_c + S_c) = ratio. No real image leaves.

    mix: whether every generator gives the same number of images of a class. Without a
    pool the synthetic images are left out, and nothing else changes.
    """
    if pool is not None:
        check_pool(pool, train)
    share = ratio if mode == "replace" else ratio / (1 - ratio)
    rng = np.random.RandomState(seed)
    _check_labels(train, labels_per_class, validation_per_class)
    labeled, validation, unlabeled, numbers = [], [], [], []
    for c in range(train.num_classes):
        members = np.flatnonzero(train.labels == c)
        rng.shuffle(members)
        end = len(members) - validation_per_class  # N_c
        numbers.append(math.floor(share * end + 0.5))  # S_c
        stop = end - numbers[c] if mode == "replace" else end
        if stop < labels_per_class:
            most = (end - labels_per_class) / end
            raise RequestError(
                f"data.synthetic_ratio={ratio} replaces {numbers[c]} of {end} "
                f"unlabelled images of class {c}, but the {labels_per_class} labelled "
                f"ones stay; at most {most:.3f} is possible: lower "
                "data.synthetic_ratio or data.labels_per_class, or use "
                "data.synthetic_mode=add"
            )
        labeled.append(members[:labels_per_class])
        unlabeled.append(members[labels_per_class:stop])
        validation.append(members[end:])
    synthetic = np.zeros(0, np.int64)
    if pool is not None and any(numbers):
        synthetic = _choose_synthetic(pool, numbers, mix, seed)
    return Split(
        labeled=np.concatenate(labeled),
        validation=np.concatenate(validation),
        unlabeled_real=np.concatenate([*labeled, *unlabeled]),
        unlabeled_synthetic=synthetic,
    )


def make_task(
    train: ImageArrays, test: ImageArrays, pool: ImageArrays | None, split: Split
) -> Task:
    """Gathers the images of a split, uint8 [.., S, S, 3], or all encoded."""
    real, synthetic = split.unlabeled_real, split.unlabeled_synthetic
    unl_labels = np.asarray(train.labels[real])
    origins = np.full(len(real), REAL, np.int32)
    parts = [(train.images, real)]
    if pool is not None and len(synthetic):
        assert pool.generators is not None
        unl_labels = np.concatenate([unl_labels, pool.labels[synthetic]])
        origins = np.concatenate([origins, pool.generators[synthetic]])
        parts.append((pool.images, synthetic))
    return Task(
        name=train.name,
        split=split,
        class_names=train.class_names,
        generator_names=pool.generator_names if pool is not None else (),
        lab_images=_take(train.images, split.labeled),
        lab_labels=np.asarray(train.labels[split.labeled]),
        unl_images=_joined(parts),
        unl_labels=unl_labels,
        unl_origins=origins,
        val_images=_take(train.images, split.validation),
        val_labels=np.asarray(train.labels[split.validation]),
        test_images=test.images,
        test_labels=np.asarray(test.labels),
    )


def check_pool(pool: ImageArrays, real: ImageArrays):
    """Raises RequestError if a pool cannot be mixed into a real dataset."""
    name, origin = f"data.synthetic_pool {pool.name}", arrays.REAL_ORIGIN
    if origin in pool.generator_names:
        raise RequestError(
            f'{name} has a generator called "{origin}", which stands for real images; '
            "import it again with another --generator"
        )
    if pool.class_names != real.class_names:
        raise RequestError(
            f"{name} has the classes {_some_names(pool)}, but {real.name} has "
            f"{_some_names(real)}, in this order; use a pool made for this dataset"
        )
    size, real_size = pool.images.shape[1:], real.images.shape[1:]
    if size != real_size:
        raise RequestError(
            f"{name} has images of {size[:2]} pixels, but {real.name} has "
            f"{real_size[:2]}; import or generate it again with --size={real_size[0]}"
        )


def _take(images: Images, indices: np.ndarray) -> Images:
    if isinstance(images, EncodedImages):
        return images.take(indices)
    return np.asarray(images[indices])


def _joined(parts: Sequence[tuple[Images, np.ndarray]]) -> Images:
    """Returns the images at the indices of all parts in a row."""
    encoded = [i.take(at) for i, at in parts if isinstance(i, EncodedImages)]
    if encoded:
        return functools.reduce(EncodedImages.followed_by, encoded)
    # One aligned array, because it may be most of a run's memory and JAX then takes it
    # over without a copy.
    count = sum(len(indices) for _, indices in parts)
    joined, done = arrays.aligned((count, *parts[0][0].shape[1:])), 0
    for images, indices in parts:
        out = joined[done : done + len(indices)]
        np.take(np.asarray(images), indices, axis=0, out=out, mode="clip")
        done += len(indices)
    return joined


def _choose_synthetic(
    pool: ImageArrays, numbers: Sequence[int], mix: bool, seed: int
) -> np.ndarray:
    """Returns indices of numbers[c] pool images of class c; mix: of all generators."""
    assert pool.generators is not None
    rng = np.random.RandomState(seed)
    groups = np.unique(pool.generators) if mix else [None]
    chosen = []
    for c, number in enumerate(numbers):
        for g, group in enumerate(groups):
            part = number // len(groups) + (g < number % len(groups))
            in_group = True if group is None else pool.generators == group
            members = np.flatnonzero((pool.labels == c) & in_group)
            if part > len(members):
                of_generator = f" of generator {group}" if mix else ""
                or_mix = ", or set data.synthetic_mix=False" if len(groups) > 1 else ""
                raise RequestError(
                    f"data.synthetic_pool holds {len(members)} images of class {c}"
                    f"{of_generator}, but {part} are needed; lower "
                    f"data.synthetic_ratio, make a larger pool{or_mix}"
                )
            rng.shuffle(members)
            chosen.append(members[:part])
    return np.concatenate(chosen)


def _check_labels(train: ImageArrays, labeled: int, validation: int):
    counts = train.counts()
    c = int(np.argmin(counts))
    if counts[c] < labeled + validation:
        also = f" and data.validation_per_class={validation}" if validation else ""
        reason = f"class {c} has only {counts[c]} training images; lower this"
        raise RequestError(f"data.labels_per_class={labeled}{also}, but {reason}")


def _some_names(data: ImageArrays) -> str:
    names = ", ".join(data.class_names[:4])
    return f"{names}, ... ({data.num_classes})" if data.num_classes > 4 else names
