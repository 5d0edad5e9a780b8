"""What archives of unknown origin may hold, so that reading one stays bounded."""

import dataclasses
from collections.abc import Callable

MAX_MEMBERS = 2_000_000  # ImageNet has 1.4 million
MAX_UNPACKED_GIB = 200  # all images together; ImageNet takes 150
MAX_FILE_MIB = 256  # one image
# Unpacked to packed bytes of one image, or of a tar.gz; pictures stay below 20.
MAX_RATIO = 200
RATIO_FLOOR_MIB = 1  # smaller images may have any ratio
UNPACK = "unpack it yourself and pass the folder"  # the way out
GIB, MIB = 2**30, 2**20


@dataclasses.dataclass(frozen=True)
class Entry:
    """A member of an archive."""

    name: str  # as the archive spells it
    size: int  # unpacked bytes
    read: Callable[[], bytes]
    is_folder: bool = False
    disguise: str | None = None  # what it is, if neither file nor folder
    fault: str | None = None  # why it may not be read


def size_fault(size: int) -> str | None:
    """Returns why a member of so many bytes may not be read, or None."""
    if size > MAX_FILE_MIB * MIB:
        return f"would unpack to {size // MIB} MiB, more than {MAX_FILE_MIB} MiB"
    return None
