"""The RS-SSL task (section 3 of the paper): who is labelled, who gives way to whom.

Pure numpy, from labels, ratio and seed to index arrays. Labelled images are chosen as
USB does (semilearn datasets/utils.py): one legacy generator, class by class, shuffle
and take the first. They stay in the unlabelled set and are never replaced.
"""

import dataclasses

import numpy as np

from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.errors import RequestError


@dataclasses.dataclass(frozen=True)
class Split:
    """Index arrays, int64. `labeled`, `validation` and `unlabeled_real` point into the
    real training images, `unlabeled_synthetic` into the pool. The unlabelled set is
    the real part followed by the synthetic one, and starts with the labelled images.
    """

    labeled: np.ndarray
    validation: np.ndarray
    unlabeled_real: np.ndarray
    unlabeled_synthetic: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields by name."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Task:
    """The images of one run. Ground truth of the unlabelled part is for evaluation.

    name: the real dataset's; lab_*: [L, ...]; unl_*: [N, ...]; unl_synthetic: bool [N];
    unl_generator: int32 [N], -1 for real images. All four *_images are of one kind.
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
        """Whether images are decoded where they are read, rather than arrays."""
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

    labels: int [n], real training labels; pool_labels, pool_generators: int [m].
    Of each class with N_c unlabelled images, labelled ones included:
    mode="replace" (paper v1): round(ratio * N_c) real ones give way to as many
    synthetic ones. mode="add" (paper v2): synthetic ones come on top until they are
    `ratio` of the unlabelled images. real_only drops the synthetic part and nothing
    else. A larger ratio replaces a superset.
    Raises RequestError where a bound is broken.
    """
    rng = np.random.RandomState(seed)
    counts = np.bincount(labels, minlength=num_classes)
    _check_counts(counts, labels_per_class, validation_per_class)
    labeled, validation, rest = [], [], []
    for c in range(num_classes):
        members = np.flatnonzero(labels == c)
        rng.shuffle(members)
        end = len(members) - validation_per_class
        labeled.append(members[:labels_per_class])
        rest.append(members[labels_per_class:end])
        validation.append(members[end:])

    unlabeled = [labels_per_class + len(r) for r in rest]  # N_c
    wanted = [_num_synthetic(n, ratio, mode) for n in unlabeled]
    if mode == "replace":
        for c, (number, members) in enumerate(zip(wanted, rest, strict=True)):
            if number > len(members):
                raise RequestError(
                    f"data.synthetic_ratio={ratio} replaces {number} of the "
                    f"{unlabeled[c]} unlabelled images of class {c}, of which "
                    f"{labels_per_class} are labelled and stay; at most "
                    f"{len(members) / unlabeled[c]:.3f} is possible: lower "
                    "data.synthetic_ratio or data.labels_per_class, or use "
                    "data.synthetic_mode=add"
                )
        rest = [
            members[: len(members) - number]
            for number, members in zip(wanted, rest, strict=True)
        ]
    synthetic = np.zeros(0, np.int64)
    if not real_only and sum(wanted):
        synthetic = _choose_synthetic(pool_labels, pool_generators, wanted, mix, seed)
    return Split(
        labeled=np.concatenate(labeled),
        validation=np.concatenate(validation),
        unlabeled_real=np.concatenate([*labeled, *rest]),
        unlabeled_synthetic=synthetic,
    )


def make_task(
    train: ImageArrays, test: ImageArrays, pool: ImageArrays | None, split: Split
) -> Task:
    """Gathers the images that a split names. Real images and pool: uint8 [.., S, S, 3],
    all of them arrays or all encoded.

    Raises RequestError where the pool does not fit the real images.
    """
    if pool is not None:
        check_pool(pool, train)
    real, synthetic = split.unlabeled_real, split.unlabeled_synthetic
    is_synthetic = np.repeat([False, True], [len(real), len(synthetic)])
    unl_images = _unlabelled(train, pool, real, synthetic)
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
        unl_images=unl_images,
        unl_labels=unl_labels,
        unl_synthetic=is_synthetic,
        unl_generator=generator,
        val_images=_take(train.images, split.validation),
        val_labels=np.asarray(train.labels[split.validation]),
        test_images=test.images,
        test_labels=np.asarray(test.labels),
    )


def _unlabelled(
    train: ImageArrays,
    pool: ImageArrays | None,
    real: np.ndarray,
    synthetic: np.ndarray,
) -> np.ndarray | EncodedImages:
    if isinstance(train.images, EncodedImages):
        images = train.images.take(real)
        if len(synthetic):
            images = images.followed_by(pool.images.take(synthetic))
        return images
    # One array at once, as a device wants it: it may be most of the memory of a run.
    count = len(real) + len(synthetic)
    images = arrays.aligned((count, *train.images.shape[1:]))
    np.take(train.images, real, axis=0, out=images[: len(real)], mode="clip")
    if len(synthetic):
        rest = images[len(real) :]
        np.take(pool.images, synthetic, axis=0, out=rest, mode="clip")
    return images


def _take(images: np.ndarray | EncodedImages, at: np.ndarray):
    if isinstance(images, EncodedImages):
        return images.take(at)
    return np.asarray(images[at])


def check_pool(pool: ImageArrays, real: ImageArrays):
    """Raises RequestError unless the pool has the real set's classes and image size,
    and no generator that is called as real images are."""
    if arrays.REAL_ORIGIN in pool.generator_names:
        raise RequestError(
            f"data.synthetic_pool {pool.name} has a generator called "
            f'"{arrays.REAL_ORIGIN}", as real images are; import it again with another '
            "--generator"
        )
    if pool.class_names != real.class_names:
        raise RequestError(
            f"data.synthetic_pool {pool.name} has the classes {_short(pool)}, the "
            f"real dataset {real.name} has {_short(real)}, in this order; use a pool "
            "made for this dataset"
        )
    if pool.images.shape[1:] != real.images.shape[1:]:
        raise RequestError(
            f"data.synthetic_pool {pool.name} holds images of "
            f"{pool.images.shape[1:3]} pixels, {real.name} of "
            f"{real.images.shape[1:3]}; import or generate it again with --size="
            f"{real.images.shape[1]}"
        )


def _num_synthetic(unlabeled: int, ratio: float, mode: str) -> int:
    """Half up, so that 0.5 of an odd class does not depend on its parity."""
    share = ratio if mode == "replace" else ratio / (1 - ratio)
    return int(np.floor(share * unlabeled + 0.5))


def _choose_synthetic(
    labels: np.ndarray | None,
    generators: np.ndarray,
    wanted: list[int],
    mix: bool,
    seed: int,
) -> np.ndarray:
    """wanted[c] pool images of class c, in equal parts of the generators if `mix`."""
    if labels is None:
        raise ValueError("a synthetic ratio above 0 needs a pool")
    rng = np.random.RandomState(seed)
    chosen = []
    groups = np.unique(generators) if mix else np.zeros(1, np.int64)
    for c, number in enumerate(wanted):
        for g, part in enumerate(_equal_parts(number, len(groups))):
            member = labels == c
            if mix:
                member &= generators == groups[g]
            members = np.flatnonzero(member)
            if part > len(members):
                of_whom = f" of generator {groups[g]}" if mix else ""
                raise RequestError(
                    f"data.synthetic_pool holds {len(members)} images of class {c}"
                    f"{of_whom}, {part} are needed; lower data.synthetic_ratio or "
                    "make a larger pool"
                    + (" or set data.synthetic_mix=False" if len(groups) > 1 else "")
                )
            rng.shuffle(members)
            chosen.append(members[:part])
    return np.concatenate(chosen)


def _equal_parts(number: int, parts: int) -> list[int]:
    """Whole numbers that differ by at most one and sum to `number`."""
    return [number // parts + (g < number % parts) for g in range(parts)]


def _check_counts(counts: np.ndarray, labels_per_class: int, validation: int):
    c = int(np.argmin(counts))
    if labels_per_class + validation > counts[c]:
        also = f" and data.validation_per_class={validation}" if validation else ""
        raise RequestError(
            f"data.labels_per_class={labels_per_class}{also}, but class {c} has only "
            f"{counts[c]} training images; ask for fewer"
        )


def _short(data: ImageArrays) -> str:
    names = ", ".join(data.class_names[:4])
    return f"{names}, ... ({data.num_classes})" if data.num_classes > 4 else names
