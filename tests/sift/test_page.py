"""sift.html: what it holds, whatever the paths and the summary are."""

import base64
import io
import json
import os
import re
import types

import numpy as np
import pytest
from PIL import Image
from support.pictures import noise
from support.sifted import NAMES, NULLS, made

from rsmatch_jax import contact_sheet
from rsmatch_jax.metrics import verdicts
from rsmatch_jax.sift import __main__ as command
from rsmatch_jax.sift import page, sheet


def written(tmp_path, *args):
    """(text of the page, its data, its pictures in the data's order)."""
    page.write(str(tmp_path / "sift.html"), *args)
    text = (tmp_path / "sift.html").read_text(encoding="utf-8")
    (block,) = re.findall(r'type="application/json" id="data">(.*?)</script>', text)
    data, pictures = json.loads(block), []
    for sprite in re.findall(r"data:image/webp;base64,([^\"]+)", text):
        with Image.open(io.BytesIO(base64.b64decode(sprite))) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert max(pixels.shape) <= 1024
        side, lines = data["side"], pixels.shape[0] // data["side"]
        grid = pixels.reshape(lines, side, data["columns"], side, 3)
        pictures.extend(grid.swapaxes(1, 2).reshape(-1, side, side, 3))
    return text, data, np.stack(pictures)


def words(text):
    """The text of the page, in single spaces."""
    body = text[text.index("<body>") : text.index("<script")]
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def shown_order(rows):
    return sorted(range(len(rows)), key=lambda i: -rows[i].score)


def test_the_page_holds_every_row_and_picture_by_score(tmp_path):
    rows, thumbnails, summary = made(1100, side=32)
    _, data, pictures = written(tmp_path, rows, thumbnails, summary)
    order = shown_order(rows)
    ordered = [rows[i] for i in order]
    assert data["path"] == [row.path for row in ordered]
    assert data["class"] == [row.class_name for row in ordered]
    assert data["verdict"] == [row.verdict for row in ordered]
    for key in ("score", "probability"):
        expected = [getattr(row, key) for row in ordered]
        assert data[key] == pytest.approx(expected, abs=1e-4)
    np.testing.assert_array_equal(pictures[:1100], thumbnails[order])
    assert not pictures[1100:].any()


def test_nothing_in_a_path_or_class_becomes_html(tmp_path):
    text, data, _ = written(tmp_path, *made(50))
    assert set(NAMES) <= set(data["path"])
    assert text.count("<script") == 2 and "window.attacked=1>" not in text
    assert "<b>" not in text and text.count("&lt;b&gt;") == 3  # an option, and `lean`
    assert not re.search(r"https?:|//(?!#)[a-z]+\.", text.split("<script>")[0])
    assert "default-src 'none'" in text


@pytest.mark.parametrize(("side", "drawn"), [(28, 28), (64, 64), (128, 64)])
def test_large_or_grey_pictures(tmp_path, side, drawn):
    rows, _, summary = made(20)
    coarse = noise(20, 4, 4, 1)  # in patches, so that WebP changes little
    pictures = coarse.repeat(side // 4, axis=1).repeat(side // 4, axis=2)
    _, data, shown = written(tmp_path, rows, pictures, summary)
    assert data["side"] == drawn
    expected = coarse[shown_order(rows)]
    expected = expected.repeat(drawn // 4, axis=1).repeat(drawn // 4, axis=2)
    difference = np.abs(shown[:20].astype(int) - expected)
    assert difference.mean() < (3 if side > 32 else 1e-9)


def test_too_many_pictures_are_the_surest_and_those_at_the_border(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(page, "MAX_SHOWN", 30)
    rows, thumbnails, summary = made(200)
    text, data, shown = written(tmp_path, rows, thumbnails, summary)
    order = shown_order(rows)
    middle = sorted(order, key=lambda i: abs(rows[i].score - 0.8))[:10]
    expected = sorted({*order[:10], *order[-10:], *middle}, key=order.index)
    assert data["path"] == [rows[i].path for i in expected]
    np.testing.assert_array_equal(shown[: len(expected)], thumbnails[expected])
    assert f"This page shows {len(expected)} of them" in words(text)
    assert "200 unlabelled pictures" in words(text)


def test_figures_are_those_of_the_summary(tmp_path):
    text = words(written(tmp_path, *made(50))[0])
    for expected in (
        "estimated synthetic share 51.2 % (90 % interval 45 to 56.8 %)",
        "score above 0.800 are called synthetic",
        "so that at most 5 % of real pictures are called synthetic",
        "the statistics lean on fine texture 93 %, &lt;b&gt;colour",
        "The weighted mean of two ranks",
    ):
        assert expected in text
    assert "This page shows" not in text


@pytest.mark.parametrize("summary", [{}, NULLS, {**NULLS, "by": "statistics"}])
def test_without_threshold_and_share_there_are_scores_alone(tmp_path, summary):
    rows, thumbnails, _ = made(20)
    rows = [row._replace(verdict=None, class_name="", probability=None) for row in rows]
    text, data, _ = written(tmp_path, rows, thumbnails, summary)
    assert set(data["verdict"]) == set(data["class"]) == {""}
    assert set(data["probability"]) == {None}
    assert 'data-figure="threshold' not in text
    text = words(text)
    assert "There is no threshold and no verdict" in text
    assert "None is estimated" in text and "Unsure" not in text
    assert "None" not in text.replace("None is", "")


@pytest.mark.parametrize("most", [9, 100])
def test_ticks_are_those_of_the_same_pictures(tmp_path, monkeypatch, most):
    """Other scores of the same pictures keep the identity, other pictures do not; also
    where the page shows some of them, which scores choose."""
    monkeypatch.setattr(page, "MAX_SHOWN", most)
    rows, thumbnails, summary = made(20)
    _, data, _ = written(tmp_path, rows, thumbnails, summary)
    again = [row._replace(score=row.score * i % 1) for i, row in enumerate(rows)]
    assert written(tmp_path, again, thumbnails, summary)[1]["id"] == data["id"]
    again[3] = again[3]._replace(path="other.png")
    assert written(tmp_path, again, thumbnails, summary)[1]["id"] != data["id"]


def test_figures_in_words():
    summary = {**made(50)[2], "verdicts": {"synthetic": 1200, "real": 800, "unsure": 0}}
    texts = {key: text for key, _, text in verdicts.figures(summary)}
    assert texts == {
        "verdicts.synthetic": "1,200 (60 %)",
        "verdicts.unsure": "0 (0 %)",
        "verdicts.real": "800 (40 %)",
        "estimated_share": "51.2 % (90 % interval 45 to 56.8 %)",
        "share_at_least": "46 % (at 90 % confidence)",
        "threshold": "0.800",
        "held_out_real": "1,000",
        "false_alarm": "at most 5 % (95 % interval 3.7 to 6.5 %)",
        "by": "the run's detector and statistics of the pictures",
        "lean": "fine texture 93 %, <b>colour</b> 7 %",
    }
    broken = {key: "x" for key in NULLS} | {"verdicts": {"real": None}}
    for nothing in (NULLS, {}, broken, {"lean": {}}):
        assert not list(verdicts.figures(nothing))
    partly = {"estimated_share": 0.5, "estimated_share_interval": [None, 1]}
    # Without a threshold no real picture is called synthetic.
    partly |= {"false_alarm": 0.05, "lean": {"grid": None}}
    assert [x[2] for x in verdicts.figures(partly)] == ["50 %", "grid 0 %"]


def test_a_name_that_is_no_text_keeps_its_bytes(tmp_path):
    """As Linux allows it: the byte 255 is in no UTF-8."""
    rows, thumbnails, _ = made(20)
    rows[0] = rows[0]._replace(path=os.fsdecode(b"\xff.png"))
    command._write(str(tmp_path), rows, types.SimpleNamespace(images=thumbnails), NULLS)
    assert b"\n\xff.png," in (tmp_path / "images.csv").read_bytes()


def test_sheet_shows_the_surest_and_those_at_the_border_by_class(tmp_path):
    """Pictures of one value each, read back from their places."""
    rows, _, summary = made(200)
    values = np.arange(200, dtype=np.uint8)
    thumbnails = np.broadcast_to(values[:, None, None, None], (200, 48, 48, 3))
    path = tmp_path / "sheet.png"

    def tiles(rows, summary, line):
        """Values in the middle of the tiles of a row."""
        sheet.draw(str(path), rows, thumbnails, summary)
        with Image.open(path) as image:
            picture = np.asarray(image)
        first_top = 2 * 12 + 16 * (3 + bool(summary["verdicts"]))
        y = first_top + line * (52 + 16 + 12) + 26
        names = sorted({row.class_name for row in rows})
        x = 24 + max(round(contact_sheet.font(11).getlength(n)) for n in names) + 26
        groups = [x + g * (6 * 54 - 2 + 12) for g in range(3)]
        return [
            [int(picture[y, left + n * 54, 0]) for n in range(6)] for left in groups
        ]

    for line, name in enumerate(("<b>dog</b>", "cat")):
        members = [i for i, row in enumerate(rows) if row.class_name == name]
        down = sorted(members, key=lambda i: -rows[i].score)
        middle = sorted(members, key=lambda i: abs(rows[i].score - 0.8))
        shown = tiles(rows, summary, line)
        assert shown == [down[:6], down[::-1][:6], middle[:6]]
    # Without classes the groups go on in further rows.
    bare = [row._replace(class_name="", verdict=None) for row in rows]
    down = sorted(range(200), key=lambda i: -rows[i].score)
    assert tiles(bare, NULLS, 1)[0] == down[6:12]
