"""Pools of synthetic images: whether one fits a dataset, and the choice of images."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.errors import RequestError


def renumbered(pool: ImageArrays, class_names: tuple[str, ...]) -> ImageArrays:
    """Returns a pool of some of these classes, in any order, with labels as positions
    in `class_names`; any other pool unchanged."""
    names = pool.class_names
    if names == class_names or not set(names) <= set(class_names):
        return pool
    labels = np.array([class_names.index(name) for name in names], np.int32)
    return dataclasses.replace(
        pool, labels=labels[pool.labels], class_names=class_names
    )


def check(pool: ImageArrays, real: ImageArrays):
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


def choose(
    pool: ImageArrays, numbers: Sequence[int], mix: bool, seed: int, every_class: bool
) -> np.ndarray:
    """Returns indices of numbers[c] pool images of class c; mix: of all generators.
    every_class: False leaves out the classes that the pool lacks."""
    if not len(pool.labels):
        raise RequestError(
            f"data.synthetic_pool {pool.name} holds no images; make it again, or set "
            "data.synthetic_ratio=0"
        )
    assert pool.generators is not None
    if not every_class:
        numbers = np.where(pool.counts() > 0, numbers, 0).tolist()
    rng = np.random.RandomState(seed)
    groups = np.unique(pool.generators).tolist() if mix else [None]
    chosen = []
    for c, number in enumerate(numbers):
        for g, group in enumerate(groups):
            part = number // len(groups) + (g < number % len(groups))
            in_group = True if group is None else pool.generators == group
            members = np.flatnonzero((pool.labels == c) & in_group)
            if part > len(members):
                generator = None if group is None else pool.generator_names[group]
                raise _too_small(pool, c, generator, len(members), part)
            rng.shuffle(members)
            chosen.append(members[:part])
    return np.concatenate(chosen)


def _too_small(
    pool: ImageArrays, c: int, generator: str | None, count: int, needed: int
) -> RequestError:
    """Returns the error for a class of which a generator (None: all) has too few."""
    of_class = f"of class {pool.class_names[c]}"
    if generator is not None:
        of_class += f" of generator {generator}"
    ways = ["make a larger pool"]
    if count:
        ways.insert(0, "lower data.synthetic_ratio")
    elif not pool.counts()[c]:
        ways.append("use data.synthetic_mode=add, which leaves such a class out")
    if generator is not None and pool.counts()[c] > count:
        ways.append("set data.synthetic_mix=False")
    *others, last = ways
    way_out = f"{', '.join(others)}, or {last}" if others else last
    return RequestError(
        f"data.synthetic_pool holds {count or 'no'} images {of_class}, but {needed} "
        f"are needed; {way_out}"
    )


def _some_names(data: ImageArrays) -> str:
    names = ", ".join(data.class_names[:4])
    return f"{names}, ... ({data.num_classes})" if data.num_classes > 4 else names
