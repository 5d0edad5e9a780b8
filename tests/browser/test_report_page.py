"""The report page in headless Chromium, light and dark, on a desk and a phone."""

import json
import os
import re
import shutil

import pytest
from playwright import sync_api
from support.runs import KEYS, run

from rsmatch_jax.report import __main__ as report
from rsmatch_jax.runs import workdir

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
# Chromium looks for updates, which are no requests of the page.
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    *(("--no-sandbox",) if os.geteuid() == 0 else ()),  # root may not have one
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of six steps, three evaluations, with all that can be drawn."""
    folder = tmp_path_factory.mktemp("page") / "run"
    run(folder, **{**KEYS, "train.num_steps": 6, "log.every_steps": 2})
    assert report.main([str(folder), "--draw"]) == 0
    return folder


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, folder):
    """open(viewport, scheme) loads the page; errors and outside requests fail."""
    contexts, errors, requests = [], [], []

    def open_(viewport=DESK, scheme="light", file="report.html"):
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console", lambda m: m.type in ("error", "warning") and errors.append(m)
        )
        page.on("pageerror", lambda error: errors.append(error))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((folder / file).as_uri())
        page.wait_for_function(
            "[...document.querySelectorAll('.plotly-graph-div')]"
            ".every(chart => chart.querySelector('.main-svg'))"
        )
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not errors, [getattr(e, "text", e) for e in errors]
    others = [url for url in requests if not url.startswith(("file:", "data:"))]
    assert requests and not others


def result(folder):
    with open(folder / "result.json") as f:
        return json.load(f)


def test_figures_are_those_of_the_result(opened, folder):
    page, content = opened(), result(folder)
    shown = {
        d.get_attribute("data-figure"): d.inner_text()
        for d in page.query_selector_all("[data-figure]")
    }
    shares = [k for k in content if "accuracy" in k or k.startswith("queue")]
    expected = {k: content[k] for k in [*shares, "detector_auroc", "utilisation"]}
    expected |= {f"test.{k}": v for k, v in content["test"].items()}
    for key, value in expected.items():
        if value is None:
            assert key not in shown
        else:
            assert shown[key] == f"{100 * value:.2f} %", key
    assert len([k for k in expected if k in shown]) > 10
    assert shown["steps"] == "6"
    assert shown["status"] == "finished"
    assert shown["fingerprint"] == content["fingerprint"]
    config = dict(
        [cell.inner_text() for cell in row.query_selector_all("th, td")]
        for row in opened_details(page)
    )
    assert config["train.batch_size"] == str(content["config"]["train"]["batch_size"])
    assert len(config) == len(workdir.flat(content["config"]))


def opened_details(page):
    page.locator("summary", has_text="Configuration").click()
    return page.query_selector_all("details:last-of-type tr")


def chart(page, title):
    heading = page.get_by_role("heading", name=title, exact=True)
    return page.locator(".chart", has=heading)


def test_hover_shows_the_numbers_of_the_metrics(opened, folder):
    page = opened()
    with open(folder / "metrics.jsonl") as f:
        lines = [json.loads(line) for line in f]
    expected = [x["eval/test_accuracy"] for x in lines if "eval/test_accuracy" in x]
    plot = chart(page, "Test accuracy")
    plot.locator(".points path").last.hover(force=True)
    hover = plot.locator(".hoverlayer")
    sync_api.expect(hover).to_contain_text("%")
    assert f"{100 * expected[-1]:.2f} %" in hover.text_content()


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_readable_and_no_wider_than_the_screen(opened, tmp_path, scheme, viewport):
    page = opened(viewport, scheme)
    style = "(node, name) => getComputedStyle(node)[name]"
    paper = page.locator("body").evaluate(style, "backgroundColor")
    assert (luminance(paper) > 0.5) == (scheme == "light")
    for selector, name in (
        ("h1", "color"),
        ("dd", "color"),
        ("dt", "color"),
        ("td", "color"),
        (".plotly-graph-div .xtick text", "fill"),
        (".plotly-graph-div .legendtext", "fill"),
        (".charts h3", "color"),
    ):
        ink = page.locator(selector).first.evaluate(style, name)
        assert contrast(ink, paper) > 4.5, (selector, ink, paper)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    for box in page.locator(".plotly-graph-div").evaluate_all(
        "charts => charts.map(c => c.getBoundingClientRect().right)"
    ):
        assert box <= viewport["width"]
    if folder := os.environ.get("SCREENSHOTS"):  # a folder, to look at them
        name = f"report-{scheme}-{viewport['width']}.png"
        page.screenshot(path=os.path.join(folder, name), full_page=True)


def test_images_are_whole(opened):
    """Queue, mistakes, Grad-CAM++, t-SNE: every picture of the page decodes."""
    page = opened()
    for name in ("What the queue holds", "What the networks look at", "Features of"):
        assert page.get_by_role("heading", name=name).count() == 1
    widths = page.locator("img").evaluate_all("all => all.map(i => i.naturalWidth)")
    assert len(widths) > 5 and min(widths) > 0
