"""The RS-SSL task (section 3 of the paper): labelled, unlabelled and synthetic images.

    labelled     `labels_per_class` real images of each class
    unlabelled   all real training images, the labelled ones included. Synthetic images
                 of the same classes replace a part of them, or are added to them
    validation   real training images that are held out from both
    test         the real test images

The learner does not know which unlabelled images are synthetic. Labelled images are
chosen as in USB (semilearn datasets/utils.py): one legacy generator shuffles the images
class by class, and the first of each class are labelled.
"""

import dataclasses
import functools

import numpy as np

from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.errors import RequestError


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of a run as indices, int64, into the real training images or the pool.

    The unlabelled set is `unlabeled_real`, which starts with `labeled`, followed by
    `unlabeled_synthetic`, which indexes the pool.
    """

    labeled: np.ndarray
    validation: np.ndarray
    unlabeled_real: np.ndarray
    unlabeled_synthetic: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the fields by name."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Task:
    """The images of a run: lab_* [L, ...], unl_* [N, ...], all of one type.

    name: the real dataset's. unl_labels: for evaluation only. unl_synthetic: bool [N].
    unl_generator: int32 [N], -1 for real images.
    """

    name: str
    split: Split
    class_names: tuple[str, ...]
    generator_names: tuple[str, ...]
    lab_images: np.ndarray | EncodedImages
    lab_labels: np.ndarray
    unl_images: np.ndarray | EncodedImages
    unl_labels: np.ndarray
    unl_synthetic: np.ndarray
    unl_generator: np.ndarray
    val_images: np.ndarray | EncodedImages
    val_labels: np.ndarray
    test_images: np.ndarray | EncodedImages
    test_labels: np.ndarray

    @property
    def encoded(self) -> bool:
        """Whether images are decoded when they are read, instead of in advance."""
        return isinstance(self.unl_images, EncodedImages)


def make_split(
    labels: np.ndarray,
    num_classes: int,
    *,
    labels_per_class: int,
    validation_per_class: int = 0,
    ratio: float = 0.0,
    mode: str = "replace",
    mix: bool = True,
    real_only: bool = False,
    pool_labels: np.ndarray | None = None,
    pool_generators: np.ndarray | None = None,
    seed: int = 0,
) -> Split:
    """Chooses the images of a run.

    Class c has N_c unlabelled real images and gets S_c synthetic, rounded half up:
      mode "replace" (paper v1): S_c = ratio * N_c. They replace as many real images,
        but no labelled ones. A larger ratio replaces a superset.
      mode "add" (paper v2): S_c / (N_c + S_c) = ratio. No real image leaves.

    Args:
        labels: int [n], of the real training images.
        mix: whether every generator gives the same number of images of a class.
        real_only: leaves out the synthetic images and changes nothing else.
        pool_labels, pool_generators: int [m]; needed if ratio > 0.

    Raises:
        RequestError: the real set or the pool has too few images.
    """
    counts = np.bincount(labels, minlength=num_classes)
    _check_counts(counts, labels_per_class, validation_per_class)
    num_unlabeled = counts - validation_per_class  # N_c
    share = ratio if mode == "replace" else ratio / (1 - ratio)
    num_synthetic = np.floor(share * num_unlabeled + 0.5).astype(int)  # S_c
    num_replaced = num_synthetic if mode == "replace" else np.zeros_like(counts)
    _check_ratio(ratio, num_replaced, num_unlabeled, labels_per_class)
    rng = np.random.RandomState(seed)
    labeled, validation, unlabeled = [], [], []
    for c in range(num_classes):
        members = np.flatnonzero(labels == c)
        rng.shuffle(members)
        end = num_unlabeled[c]
        labeled.append(members[:labels_per_class])
        unlabeled.append(members[labels_per_class : end - num_replaced[c]])
        validation.append(members[end:])
    synthetic = np.zeros(0, np.int64)
    if not real_only and num_synthetic.any():
        synthetic = _choose_synthetic(
            pool_labels, pool_generators, num_synthetic, mix, seed
        )
    return Split(
        labeled=np.concatenate(labeled),
        validation=np.concatenate(validation),
        unlabeled_real=np.concatenate([*labeled, *unlabeled]),
        unlabeled_synthetic=synthetic,
    )


def make_task(
    train: ImageArrays, test: ImageArrays, pool: ImageArrays | None, split: Split
) -> Task:
    """Gathers the images of a split, uint8 [.., S, S, 3], all arrays or all encoded.

    Raises:
        RequestError: the pool does not fit the real images.
    """
    if pool is not None:
        check_pool(pool, train)
    real, synthetic = split.unlabeled_real, split.unlabeled_synthetic
    is_synthetic = np.repeat([False, True], [len(real), len(synthetic)])
    unl_labels = np.asarray(train.labels[real])
    generator = np.full(len(is_synthetic), -1, np.int32)
    if len(synthetic):
        unl_labels = np.concatenate([unl_labels, pool.labels[synthetic]])
        generator[is_synthetic] = pool.generators[synthetic]
    return Task(
        name=train.name,
        split=split,
        class_names=train.class_names,
        generator_names=pool.generator_names if pool is not None else (),
        lab_images=_take(train.images, split.labeled),
        lab_labels=np.asarray(train.labels[split.labeled]),
        unl_images=_unlabeled_images(train, pool, split),
        unl_labels=unl_labels,
        unl_synthetic=is_synthetic,
        unl_generator=generator,
        val_images=_take(train.images, split.validation),
        val_labels=np.asarray(train.labels[split.validation]),
        test_images=test.images,
        test_labels=np.asarray(test.labels),
    )


def check_pool(pool: ImageArrays, real: ImageArrays):
    """Raises RequestError if a pool cannot be mixed into a real dataset."""
    if arrays.REAL_ORIGIN in pool.generator_names:
        raise RequestError(
            f"data.synthetic_pool {pool.name} has a generator called "
            f'"{arrays.REAL_ORIGIN}", the name that stands for real images; import it '
            "again with another --generator"
        )
    if pool.class_names != real.class_names:
        raise RequestError(
            f"data.synthetic_pool {pool.name} has the classes {_some_names(pool)}, but "
            f"the real dataset {real.name} has {_some_names(real)}, in this order; use "
            "a pool that was made for this dataset"
        )
    if pool.images.shape[1:] != real.images.shape[1:]:
        raise RequestError(
            f"data.synthetic_pool {pool.name} has images of {pool.images.shape[1:3]} "
            f"pixels, but {real.name} has {real.images.shape[1:3]}; import or generate "
            f"it again with --size={real.images.shape[1]}"
        )


def _take(
    images: np.ndarray | EncodedImages, indices: np.ndarray
) -> np.ndarray | EncodedImages:
    if isinstance(images, EncodedImages):
        return images.take(indices)
    return np.asarray(images[indices])


def _unlabeled_images(
    train: ImageArrays, pool: ImageArrays | None, split: Split
) -> np.ndarray | EncodedImages:
    """The real images of a split, then its synthetic ones."""
    parts = [(train, split.unlabeled_real)]
    if len(split.unlabeled_synthetic):
        parts.append((pool, split.unlabeled_synthetic))
    if isinstance(train.images, EncodedImages):
        taken = (data.images.take(indices) for data, indices in parts)
        return functools.reduce(EncodedImages.followed_by, taken)
    # One aligned array, because it may be most of a run's memory and JAX then takes it
    # over without a copy.
    count = sum(len(indices) for _, indices in parts)
    images, done = arrays.aligned((count, *train.images.shape[1:])), 0
    for data, indices in parts:
        out = images[done : done + len(indices)]
        np.take(data.images, indices, axis=0, out=out, mode="clip")
        done += len(indices)
    return images


def _choose_synthetic(
    labels: np.ndarray | None,
    generators: np.ndarray,
    numbers: np.ndarray,
    mix: bool,
    seed: int,
) -> np.ndarray:
    """Indices of numbers[c] pool images of class c, mixed: from all generators."""
    if labels is None:
        raise ValueError("a synthetic ratio above 0 needs a pool")
    rng = np.random.RandomState(seed)
    groups = np.unique(generators) if mix else [None]
    chosen = []
    for c, number in enumerate(numbers):
        for g, group in enumerate(groups):
            part = number // len(groups) + (g < number % len(groups))
            in_group = True if group is None else generators == group
            members = np.flatnonzero((labels == c) & in_group)
            if part > len(members):
                of_generator = f" of generator {group}" if mix else ""
                raise RequestError(
                    f"data.synthetic_pool holds {len(members)} images of class {c}"
                    f"{of_generator}, but {part} are needed; lower "
                    "data.synthetic_ratio or make a larger pool"
                    + (" or set data.synthetic_mix=False" if len(groups) > 1 else "")
                )
            rng.shuffle(members)
            chosen.append(members[:part])
    return np.concatenate(chosen)


def _check_counts(counts: np.ndarray, labels_per_class: int, validation: int):
    c = int(np.argmin(counts))
    if labels_per_class + validation > counts[c]:
        also = f" and data.validation_per_class={validation}" if validation else ""
        raise RequestError(
            f"data.labels_per_class={labels_per_class}{also}, but class {c} has only "
            f"{counts[c]} training images; lower these numbers"
        )


def _check_ratio(
    ratio: float, num_replaced: np.ndarray, num_unlabeled: np.ndarray, labeled: int
):
    most = num_unlabeled - labeled
    c = np.argmax(num_replaced > most)  # the first such class, or 0
    if num_replaced[c] > most[c]:
        raise RequestError(
            f"data.synthetic_ratio={ratio} replaces {num_replaced[c]} of the "
            f"{num_unlabeled[c]} unlabelled images of class {c}, but the {labeled} "
            f"labelled ones stay; at most {most[c] / num_unlabeled[c]:.3f} is "
            "possible: lower data.synthetic_ratio or data.labels_per_class, or use "
            "data.synthetic_mode=add"
        )


def _some_names(data: ImageArrays) -> str:
    names = ", ".join(data.class_names[:4])
    return f"{names}, ... ({data.num_classes})" if data.num_classes > 4 else names
