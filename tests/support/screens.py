"""Screens of a desk and a phone, and how well text is read on them."""

import os
import re
import shutil

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


# Chromium looks for updates, which are no requests of the page.
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    *(("--no-sandbox",) if os.geteuid() == 0 else ()),  # root may not have one
)


def launched(playwright):
    """Returns headless Chromium: Debian's, or the one that CHROMIUM names."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)))
    return playwright.chromium.launch(executable_path=program, args=QUIET)


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


def check_accessible(page):
    """Checks a page by axe-core: contrast, names, order and the like (WCAG 2.1 A, AA).
    Texts of plotly's SVG, which axe leaves out, are in `check_readable`."""
    from axe_playwright_python.base import AXE_SCRIPT  # lazy: of the browser tests

    page.evaluate(AXE_SCRIPT)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
    result = page.evaluate(
        "tags => axe.run(document, {runOnly: tags, resultTypes: ['violations']})", tags
    )
    problems = [
        (v["id"], node["html"][:200], node["failureSummary"])
        for v in result["violations"]
        for node in v["nodes"]
    ]
    assert not problems, problems


CUT_OFF = """() => {
    const scrolls = e => e && e !== document.documentElement &&
        (/auto|scroll/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
    const name = (e, why) => `${why}: ${e.outerHTML.slice(0, 200)}`;
    const cut = [], width = document.documentElement.clientWidth;
    for (const e of document.body.querySelectorAll("*")) {
        const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
        const box = e.getBoundingClientRect();
        if (!own || !box.width || e.closest("script, style, option")) continue;
        const svg = e.closest("svg.main-svg");
        if (svg) {  // a chart's texts
            const frame = svg.getBoundingClientRect();
            if (box.left < frame.left - 1 || box.right > frame.right + 1 ||
                box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
                cut.push(name(e, "beyond its chart"));
            continue;
        }
        const style = getComputedStyle(e);
        const isWhole = style.textOverflow === "ellipsis" && e.title === e.textContent;
        if (style.overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1 &&
            !/auto|scroll/.test(style.overflowX) && !isWhole)
            cut.push(name(e, "longer than its box"));
        if (!scrolls(e) && (box.right > width + 1 || box.left < -1))
            cut.push(name(e, "beyond the screen"));
    }
    return cut;
}"""


def check_nothing_cut_off(page):
    """Checks that no text is longer than its box, the screen or its chart, apart from
    what can be scrolled to, and a shortened name whose title has all of it."""
    cut = page.evaluate(CUT_OFF)
    assert not cut, cut


BROKEN_WORDS = """selector => {
    const broken = [];
    for (const e of document.querySelectorAll(selector)) {
        const walk = document.createTreeWalker(e, NodeFilter.SHOW_TEXT);
        for (let node = walk.nextNode(); node; node = walk.nextNode())
            for (const match of node.data.matchAll(/[\\p{L}\\p{N}_.]+/gu)) {
                const range = document.createRange();
                range.setStart(node, match.index);
                range.setEnd(node, match.index + match[0].length);
                const lines = [...range.getClientRects()].map(r => Math.round(r.top));
                if (new Set(lines).size > 1) broken.push(match[0]);
            }
    }
    return broken;
}"""


def check_words_whole(page, selector):
    """Checks that no word of these elements is broken over two lines."""
    assert page.locator(selector).count()
    broken = page.evaluate(BROKEN_WORDS, selector)
    assert not broken, broken
