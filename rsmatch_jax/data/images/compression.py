"""How strongly picture files are compressed, and pictures compressed alike.

What tells labelled pictures from others tells them by their files, too: with PNG files
on one side and JPEG ones on the other, all others look synthetic. JPEG's traces cannot
be taken away, so the less compressed side gets them, before any crop or resizing.
"""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, JpegImagePlugin

from rsmatch_jax.data.images.image_source import Picture, Unreadable

CHANGE = "stored once more as JPEG, to be compressed like the others"
STRONGER = 1.25  # times the own strength: below, a second compression adds more traces
_SUBSAMPLING = 2  # 4:2:0, the usual one, where a file has a form of its own


@dataclasses.dataclass(frozen=True)
class Jpeg:
    """What a JPEG file is written with.

    tables: quantisation steps of 8 x 8 frequencies, of luma first. subsampling: of the
    colours, as Pillow numbers it.
    """

    tables: tuple[tuple[int, ...], ...]
    subsampling: int

    @property
    def strength(self) -> float:
        """The mean step of luma: 1 at quality 100, 29 at 75, 58 at 50."""
        return float(np.mean(self.tables[0]))


def of_file(data: bytes) -> Jpeg | None:
    """Returns what a file was written with; None for every file that is no JPEG: what a
    lossy WebP, AVIF or HEIC file lost cannot be read off it."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            if not isinstance(image, JpegImagePlugin.JpegImageFile):
                return None
            tables = tuple(tuple(map(int, t)) for t in image.quantization.values())
            sampling = JpegImagePlugin.get_sampling(image)
    except Exception:  # what is damaged is named where it is decoded
        return None
    return Jpeg(tables, _SUBSAMPLING if sampling < 0 else sampling) if tables else None


def alike(
    these: Sequence[Jpeg | None], others: Sequence[Jpeg | None]
) -> list[Jpeg | None]:
    """Returns for each of `these` what to store it with once more, None to leave it.

    A picture is compared with that one of `others` that has its rank by strength, and
    stored like it if that is compressed more strongly. Called for both sides, this
    gives both the same strengths, the larger one of each rank, and changes nothing
    where they are alike. Chance ranks equals in strength.
    """
    mine, theirs = (np.array([_strength(j) for j in side]) for side in (these, others))
    rng = np.random.default_rng(0)
    my_order, order = (np.lexsort((rng.permutation(len(x)), x)) for x in (mine, theirs))
    ranks = np.argsort(my_order)
    partners = order[((ranks + 0.5) / len(mine) * len(theirs)).astype(int)]
    stronger = theirs[partners] > STRONGER * np.maximum(mine, 1)
    return [
        others[partner] if is_stronger else None
        for partner, is_stronger in zip(partners, stronger, strict=True)
    ]


def _strength(jpeg: Jpeg | None) -> float:
    return 0.0 if jpeg is None else jpeg.strength


def again(picture: Picture, jpeg: Jpeg) -> Picture:
    """Returns a picture stored once more, as a JPEG file. Raises Unreadable if it has
    more pixels a side than such a file can have, 65,500."""
    try:
        file, shown = stored_as(picture.rgb, jpeg)
    except OSError as e:
        width, height = picture.rgb.size
        reason = f"{width}x{height} pixels cannot be stored as JPEG ({e})"
        raise Unreadable(reason) from None
    changes = (*picture.changes, CHANGE)
    return dataclasses.replace(picture, encoded=file, rgb=shown, changes=changes)


def stored_as(picture: Image.Image, jpeg: Jpeg) -> tuple[bytes, Image.Image]:
    """Returns an RGB picture as a JPEG file, and what that shows."""
    file = io.BytesIO()
    tables = [list(t) for t in jpeg.tables]
    picture.save(file, "JPEG", qtables=tables, subsampling=jpeg.subsampling)
    shown = Image.open(io.BytesIO(file.getvalue()))
    shown.load()
    return file.getvalue(), shown
