"""Draws a contact sheet: a row per class, real pictures left, synthetic ones right."""

from collections.abc import Sequence

import numpy as np

from rsmatch_jax import contact_sheet, files
from rsmatch_jax.contact_sheet import Group, Tile
from rsmatch_jax.data.stores.arrays import ImageArrays

_SIDES = (48, 96)  # least and most pixels of a tile's side


def draw(
    path: str,
    pool: ImageArrays,
    train: ImageArrays,
    per_class: int,
    seed: int,
    captions: Sequence[str] = (),
):
    """Writes the contact sheet: per_class pictures of each class, chosen by seed.
    captions: of the pool's pictures, none by default."""
    rng = np.random.default_rng(seed)
    class_names = pool.class_names[: contact_sheet.MAX_ROWS]

    def group(data: ImageArrays, members: np.ndarray, texts: Sequence[str] = ()):
        """The tiles of each class."""
        rows = [np.flatnonzero((data.labels == c) & members) for c in classes]
        chosen = [np.sort(rng.permutation(r)[:per_class]) for r in rows]
        return [
            [Tile(data.images[i], texts[i] if texts else "") for i in some]
            for some in chosen
        ]

    classes = range(len(class_names))
    groups = {"real": group(train, np.ones(len(train.labels), bool))}
    generators = np.arange(len(pool.generator_names))[:, None] == pool.generators
    for name, members in zip(pool.generator_names, generators, strict=True):
        groups[f"synthetic: {name}"] = group(pool, members, captions)
    rows = [
        [Group(tiles[row], "" if row else name) for name, tiles in groups.items()]
        for row in classes
    ]
    title = f"{train.name}: real and synthetic pictures, {per_class} of each class"
    sheet = contact_sheet.draw(title, rows, class_names, sides=_SIDES)
    files.write_bytes(path, contact_sheet.to_png(sheet))
