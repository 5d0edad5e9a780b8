"""Contact sheets: every picture, frame and text in its place."""

import io

import numpy as np
import pytest
from PIL import Image
from support.pictures import noise

from rsmatch_jax import contact_sheet
from rsmatch_jax.contact_sheet import Group, Tile
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.synthesis.look import sheet as look_sheet

MARGIN, GAP, LINE = 12, 2, 16  # pixels
TOP = 2 * MARGIN + LINE


def flat(value, size=4):
    return Tile(np.full((size, size, 3), value, np.uint8), frame="#ff0000")


def drawn(rows, names=(), **options):
    options = {"sides": (8, 20), **options}
    return np.asarray(contact_sheet.draw("", rows, names, **options)).astype(int)


def test_every_picture_in_its_place():
    rows = [
        [Group([flat(1), flat(2)]), Group([flat(3), flat(4)])],
        [Group([flat(5)]), Group([None, flat(6)])],
    ]
    picture = drawn(rows, ["", ""])
    tile, left = 8, 2 * MARGIN  # 4 pixels enlarged twice
    right = left + 2 * tile + GAP + MARGIN
    width, height = right + 2 * tile + GAP + MARGIN, TOP + 2 * tile + GAP + MARGIN
    expected = np.full((height, width, 3), 255)
    places = {
        (left, 0): ((1, 2), (5, 255)),
        (right, 0): ((3, 4), (235, 6)),
    }
    for (edge, _), values in places.items():
        for (row, column), value in np.ndenumerate(values):
            y, x = TOP + row * (tile + GAP), edge + column * (tile + GAP)
            expected[y : y + tile, x : x + tile] = value
    np.testing.assert_array_equal(picture, expected)


def test_frames_lie_around_the_pictures():
    picture = drawn([[Group([flat(9), None])]], border=3)
    box = picture[TOP : TOP + 14, MARGIN : MARGIN + 14]
    assert (box[3:-3, 3:-3] == 9).all()
    outside = np.ones((14, 14), bool)
    outside[3:-3, 3:-3] = False
    assert (box[outside] == (255, 0, 0)).all()
    empty = picture[TOP : TOP + 14, MARGIN + 16 : MARGIN + 30]
    assert (empty == 235).all()


def test_texts_take_lines_above_their_row_alone():
    """A heading and a caption, a legend, and the name of a row."""
    first = [Group([flat(1)._replace(caption="c")], "heading")]
    second, third = [Group([flat(2)])], [Group([flat(3)._replace(caption="c")])]
    picture = drawn([first, second, third])
    tops = [np.flatnonzero((picture[:, MARGIN] == v).all(1))[0] for v in (1, 2, 3)]
    assert tops == [
        TOP + 2 * LINE,
        TOP + 2 * LINE + 10,
        TOP + 2 * LINE + 20 + 10 + LINE,
    ]
    inked = (picture != 255).any(axis=(1, 2))
    assert inked[TOP : TOP + LINE].any() and inked[TOP + LINE : tops[0]].any()
    key = contact_sheet.swatch("#00ff00")
    with_legend = drawn([second], ["a name"], legend=[(key, "meaning")])
    assert (with_legend == (0, 255, 0)).all(2).sum() == key.shape[0] * key.shape[1]
    x = np.flatnonzero((with_legend[TOP + LINE : -MARGIN] == 2).all((0, 2)))[0]
    assert x == 2 * MARGIN + round(contact_sheet.font(11).getlength("a name"))
    assert (with_legend[TOP + LINE :, :x] != 255).any()
    assert (with_legend[TOP + LINE - 1, x] == 255).all()


def test_a_marked_caption_is_bold_and_coloured():
    def colours(is_marked):
        tile = Tile(np.full((60, 60, 3), 255, np.uint8), "WWW", is_marked=is_marked)
        image = contact_sheet.draw("", [[Group([tile])]], sides=(60, 60))
        return {colour: n for n, colour in image.getcolors(2**16)}

    marked, plain = colours(True), colours(False)
    assert (176, 58, 0) in marked and (176, 58, 0) not in plain
    assert marked[255, 255, 255] < plain[255, 255, 255]  # thicker letters


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((8, 8), (48, 48)),
        ((32, 32), (64, 64)),  # a whole factor
        ((28, 14), (56, 28)),
        ((64, 64), (64, 64)),
        ((96, 10), (96, 10)),
        ((224, 112), (96, 48)),
        ((2000, 3), (96, 1)),
    ],
)
def test_sizes(size, expected):
    assert contact_sheet.fitted(*size, 48, 96) == expected


def test_small_pictures_keep_their_pixels_and_large_ones_their_means():
    picture = noise(6, 4, 3)
    larger = np.asarray(contact_sheet.resized(picture, 12, 8))
    np.testing.assert_array_equal(larger, picture.repeat(2, 0).repeat(2, 1))
    picture = noise(12, 8, 3)
    means = picture.reshape(6, 2, 4, 2, 3).mean((1, 3))
    smaller = np.asarray(contact_sheet.resized(picture, 6, 4))
    np.testing.assert_allclose(smaller, means, atol=1)  # rounded along each axis
    grey = noise(4, 4, 1)
    np.testing.assert_array_equal(contact_sheet.resized(grey, 4, 4), grey[..., 0])


def test_long_texts_keep_both_ends():
    font = contact_sheet.font(10)
    shortened = contact_sheet.shortened
    assert shortened("short", font.getlength("short"), font) == "short"
    text = shortened("a long name.png", font.getlength("a lo….png"), font)
    assert text == "a lo….png"
    assert font.getlength(shortened("x" * 50, 99, font)) <= 99
    for end in "\n", "\r", "\r\n", "\x1e", "\x85", "\u2029":
        assert shortened(f"two{end}lines", 99, font) == "two lines"


def test_png_has_the_same_pixels():
    image = Image.fromarray(noise(9, 7, 3))
    with Image.open(io.BytesIO(contact_sheet.to_png(image))) as read:
        np.testing.assert_array_equal(read, image)


def test_look_has_a_row_per_class_and_a_group_per_origin(tmp_path):
    """Class c of the real set has the value c, of generator g 10 + 2 * g + c."""
    labels = np.repeat([0, 1], 5).astype(np.int32)

    def arrays(values, **generators):
        images = np.broadcast_to(values[:, None, None, None], (len(values), 48, 48, 3))
        images = np.ascontiguousarray(images.astype(np.uint8))
        return ImageArrays("pets", images, labels, ("cat", "dog"), **generators)

    generators = np.tile([0, 1], 5).astype(np.int32)
    pool = arrays(
        10 + 2 * generators + labels,
        generators=generators,
        generator_names=("a", "b"),
    )
    path = tmp_path / "look.png"
    look_sheet.draw(str(path), pool, arrays(labels), 3, seed=0)
    with Image.open(path) as image:
        picture = np.asarray(image)
    top = TOP + LINE  # the names of the groups
    for row, per_group in enumerate([(3, 3, 2), (3, 2, 3)]):
        line = picture[top + 50 * row + 24, :, 0]
        counts = [(line == v + row).sum() // 48 for v in (0, 10, 12)]
        assert tuple(counts) == per_group
