"""Screens of a desk and a phone, and how well text is read on them."""

import os
import re

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def luminance(colour):
    channels = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
    linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    ]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a, b):
    """WCAG 2.1."""
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def check_readable(page, name, viewport, scheme, texts, full_page=False):
    """Checks a page's colours and width; SCREENSHOTS, a folder, gets a picture of it.

    texts: (selector, selector of what lies behind it, property of its colour).
    """

    def colour(selector, key):
        style = "(node, key) => getComputedStyle(node)[key]"
        return page.locator(selector).first.evaluate(style, key)

    assert (luminance(colour("body", "backgroundColor")) > 0.5) == (scheme == "light")
    for selector, behind, key in texts:
        ink, ground = colour(selector, key), colour(behind, "backgroundColor")
        assert contrast(ink, ground) > 4.5, (selector, ink, ground)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    if folder := os.environ.get("SCREENSHOTS"):
        path = os.path.join(folder, f"{name}-{scheme}-{viewport['width']}.png")
        page.screenshot(path=path, full_page=full_page)
