"""What an import makes of the files that it is given."""

import dataclasses
from collections.abc import Sequence

from rsmatch_jax.data.images.image_source import File

UNLABELLED = "unlabelled"  # the split of images without a class, as STL-10 calls it
NO_LABEL = -1
SPLITS = ("train", "test", "validation", UNLABELLED)

Files = Sequence[File]


@dataclasses.dataclass(frozen=True)
class Item:
    """An image to import. generator: None for a real dataset. label: or NO_LABEL."""

    file: File
    split: str
    label: int
    generator: int | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a layout makes of the files."""

    items: list[Item]
    class_names: tuple[str, ...]
    generators: dict[str, str]  # {name: how it was run}; empty for a real dataset
    licence: str
    source: str
    ignored: dict[str, int]  # {reason: number of images}
    notes: tuple[str, ...] = ()  # what the layout took for granted, in lines
