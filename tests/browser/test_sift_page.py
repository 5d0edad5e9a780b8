"""The page of sifted pictures in headless Chromium, with 6,000 of them."""

import csv
import io
import os
import time

import numpy as np
import pytest
from PIL import Image
from playwright import sync_api
from support.screens import (
    DESK,
    PHONE,
    check_accessible,
    check_nothing_cut_off,
    check_readable,
)
from support.sifted import NAMES, made

from rsmatch_jax.sift import page as sift_page

COUNT, OPENS_IN = 6000, 3.0  # pictures, seconds
NEXT_FRAME = "() => new Promise(r => requestAnimationFrame(() => setTimeout(r)))"


@pytest.fixture(scope="module")
def sifted():
    """Rows with awkward paths, noise as pictures: nothing compresses worse."""
    return made(COUNT, side=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sifted):
    folder = tmp_path_factory.mktemp("sift")
    sift_page.write(str(folder / "sift.html"), *sifted)
    return folder


@pytest.fixture
def opened(open_page, folder):
    def open_(*args, **kwargs):
        page = open_page(folder / "sift.html", *args, **kwargs)
        page.evaluate(NEXT_FRAME)
        return page

    return open_


def labels(page):
    """Texts of the tiles in the order of the screen."""
    return page.locator(".tile").evaluate_all(
        "tiles => tiles.map(t => [t.offsetTop, t.offsetLeft, t.title])"
        ".sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(t => t[2])"
    )


def by_score(rows):
    return [row.path for row in sorted(rows, key=lambda row: -row.score)]


def saved(page):
    """(path, origin) of the file that the page saves, by Python's reader."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Save origins.csv").click()
    assert download.value.suggested_filename == "origins.csv"
    with open(download.value.path(), newline="", encoding="utf-8") as f:
        head, *rows = csv.reader(f)
    assert head == ["path", "origin"]
    return dict(rows)


def ticked(page):
    return page.locator("#ticked").inner_text()


def test_six_thousand_pictures_open_in_seconds(open_page, folder):
    begin = time.monotonic()
    page = open_page(folder / "sift.html")
    page.evaluate(NEXT_FRAME)
    page.screenshot()  # waits until the first pictures are painted
    seconds = time.monotonic() - begin
    assert seconds < OPENS_IN
    assert 20 < page.locator(".tile").count() < 300
    page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
    begin = time.monotonic()
    page.evaluate(NEXT_FRAME)
    page.screenshot()
    assert time.monotonic() - begin < 1
    size = os.path.getsize(folder / "sift.html") / 2**20
    print(f"{COUNT} pictures, {size:.1f} MiB, opened in {seconds:.2f} s")


def test_every_picture_is_in_its_place(opened, sifted):
    """The first tiles, and the last ones after a jump, against the thumbnails."""
    rows, thumbnails, _ = sifted
    places = {row.path: i for i, row in enumerate(rows)}
    page = opened()
    assert labels(page)[:30] == by_score(rows)[:30]
    page.locator("[tabindex='0'].tile").focus()
    page.keyboard.press("End")
    page.evaluate(NEXT_FRAME)
    assert labels(page)[-30:] == by_score(rows)[-30:]
    for path in (*by_score(rows)[-30:-20], by_score(rows)[-1]):
        tile = page.locator(f".tile[aria-label^='{places_label(path)}'] .picture")
        tile.scroll_into_view_if_needed()
        box = tile.bounding_box()
        x, y = round(box["x"]) + 3, round(box["y"]) + 3  # inside the frame
        with Image.open(io.BytesIO(page.screenshot())) as shot:
            shown = np.asarray(shot.convert("RGB"))[y : y + 96, x : x + 96]
        expected = thumbnails[places[path]].repeat(3, axis=0).repeat(3, axis=1)
        np.testing.assert_array_equal(shown, expected)


def places_label(path):
    return path.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\a ")


def test_ticks_by_mouse_are_saved_with_every_awkward_path(opened, sifted):
    rows = sifted[0]
    page, expected = opened(), {}
    for name in NAMES:
        assert name in by_score(rows)[: len(NAMES)]
    for n, path in enumerate(by_score(rows)[: len(NAMES)]):
        origin = ("real", "synthetic")[n % 2]
        tile = page.locator(".tile").nth(n)
        assert tile.get_attribute("title") == path
        tile.get_by_role("button", name=origin).click()
        expected[path] = origin
    first = page.locator(".tile").nth(0).get_by_role("button", name="synthetic")
    first.click()  # changes the tick
    assert first.get_attribute("aria-pressed") == "true"
    expected[by_score(rows)[0]] = "synthetic"
    second = page.locator(".tile").nth(1).get_by_role("button", name="synthetic")
    second.click()  # removes it
    del expected[by_score(rows)[1]]
    assert saved(page) == expected
    assert page.evaluate("window.attacked") is None  # no path became HTML


def test_ticks_by_keys_survive_a_reload(opened, sifted):
    order = by_score(sifted[0])
    page = opened()
    button = page.get_by_role("button", name="Save origins.csv")
    assert button.is_disabled() and ticked(page) == "ticked: 0 real, 0 synthetic"
    page.locator("[tabindex='0'].tile").focus()
    columns = page.evaluate("columns")
    for key in ("r", "S", "ArrowRight", "s", "ArrowLeft", "ArrowDown", "r", "r"):
        page.keyboard.press(key)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("x")
    # A tick moves on by one.
    expected = {order[0]: "real", order[1]: "synthetic", order[3]: "synthetic"}
    expected[order[3 + columns]] = "real"
    assert saved(page) == expected
    page.reload()
    assert ticked(page) == "ticked: 2 real, 2 synthetic"
    assert saved(page) == expected
    page.locator("#ticks").select_option("synthetic")
    assert labels(page) == [order[1], order[3]]


def test_filters_and_orders(opened, sifted):
    rows, _, summary = sifted
    page = opened()
    page.locator("#verdict").select_option("unsure")
    page.locator("#class").select_option("<b>dog</b>")
    page.locator("#order").select_option("border")
    members = [
        row for row in rows if (row.verdict, row.class_name) == ("unsure", "<b>dog</b>")
    ]
    threshold = summary["threshold"]
    members.sort(key=lambda row: (abs(row.score - threshold), -row.score))
    assert page.locator("#count").inner_text() == f"{len(members)} of {COUNT} pictures"
    assert labels(page)[:20] == [row.path for row in members][:20]
    page.locator("#order").select_option("real")
    members.sort(key=lambda row: row.score)
    assert labels(page)[:20] == [row.path for row in members][:20]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_readable_and_no_wider_than_the_screen(opened, scheme, viewport):
    page = opened(viewport, scheme)
    for summary in page.locator("summary").all():
        summary.click()
    page.locator(".tile .picture").first.click()
    page.keyboard.press("r")
    page.evaluate(NEXT_FRAME)
    texts = [
        *((x, "body") for x in ("h1", "dt", "dd", ".words dd", "summary", ".score")),
        *((x, ".bar") for x in (".bar label", "#ticked")),
        *((x, "#detail") for x in ("#facts", "#path")),
        *((x, x) for x in ("#save", "select", "[aria-pressed='true']")),
    ]
    texts = [(*pair, "color") for pair in texts]
    check_readable(page, "sift", viewport, scheme, texts)
    check_accessible(page)
    check_nothing_cut_off(page)


def test_a_browser_that_stores_nothing_warns(opened, sifted):
    broken = """Object.defineProperty(window, "localStorage", {
        get() { throw new Error("refused"); } });"""
    page = opened(init_script=broken)
    note = page.get_by_role("status").filter(has_text="keeps no ticks")
    sync_api.expect(note).to_be_visible()
    page.locator(".tile").first.get_by_role("button", name="real").click()
    assert saved(page) == {by_score(sifted[0])[0]: "real"}
