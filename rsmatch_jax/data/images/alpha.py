"""Puts transparent images on a background."""

import functools

from PIL import Image, ImageColor

from rsmatch_jax.errors import RequestError

BACKGROUND = "white"
# Entries of `changes`, the first followed by a colour.
PUT, FULLY_TRANSPARENT = "transparency put on", "fully transparent"


@functools.cache
def colour(background: str) -> tuple[int, int, int]:
    """Returns red, green and blue of a colour's name or #rrggbb; or RequestError."""
    try:
        red, green, blue, *opacity = ImageColor.getrgb(background)
        if opacity:
            raise ValueError
    except ValueError:
        reason = "write a colour's name, such as white, or #rrggbb"
        raise RequestError(f"--background={background}: {reason}") from None
    return red, green, blue


def removed(image: Image.Image, background: str) -> tuple[Image.Image, tuple[str, ...]]:
    """Returns an image as RGB on a background, and what that changed."""
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB"), ()
    rgba = image.convert("RGBA")
    lowest, highest = rgba.getchannel("A").getextrema()
    if lowest == 255:
        return rgba.convert("RGB"), ()
    canvas = Image.new("RGB", rgba.size, colour(background))
    canvas.paste(rgba, mask=rgba)
    return canvas, (
        f"{PUT} {background}",
        *([FULLY_TRANSPARENT] if highest == 0 else []),
    )
