"""Draws the pictures of the demo that README and docs show, into pictures/.

    make gallery

It takes what the demo's runs and the commands on them have written, and the first
screen of the report in Chromium (Debian's, or the one that CHROMIUM names). Pictures of
own-images.md are of other data and come from the commands on that page.
"""

import pathlib
import shutil

import charts
from PIL import Image
from playwright import sync_api
from support import screens

DOCS = pathlib.Path(__file__).parent
RUNS, PICTURES = DOCS.parent / "runs", DOCS / "pictures"
DRAWN = ("queue", "gradcam", "tsne")  # in the folder of the demo's RSMatch
SCREEN = {"width": 1000, "height": 760}
COLOURS = 128  # of a picture; more are hardly seen, and it would be larger
MOST = 1_000_000  # bytes of all pictures


def main():
    for name in DRAWN:
        shutil.copy(RUNS / "demo" / f"{name}.png", PICTURES / f"demo-{name}.png")
    _screen(RUNS / "demo-report.html", PICTURES / "demo-report.png")
    charts.draw()
    for picture in PICTURES.glob("demo-*.png"):
        with Image.open(picture) as image:
            image.convert("RGB").quantize(COLOURS).save(picture, optimize=True)
    size = sum(picture.stat().st_size for picture in PICTURES.iterdir())
    if size > MOST:
        raise SystemExit(f"error: {PICTURES} holds {size} bytes, more than {MOST}")


def _screen(page_file, picture):
    with sync_api.sync_playwright() as playwright:
        browser = screens.launched(playwright)
        page = browser.new_page(viewport=SCREEN)
        page.goto(page_file.as_uri())
        page.wait_for_timeout(1000)  # until the charts are drawn
        page.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main()
