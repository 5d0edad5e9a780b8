"""The report page in headless Chromium, light and dark, on a desk and a phone."""

import json

import pytest
from playwright import sync_api
from support import sifted
from support.runs import KEYS, run
from support.screens import DESK, PHONE, check_readable

from rsmatch_jax import files
from rsmatch_jax.report import __main__ as report
from rsmatch_jax.runs import workdir
from rsmatch_jax.sift import page as sift_page
from rsmatch_jax.sift import sheet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of six steps, three evaluations, with all that can be drawn."""
    folder = tmp_path_factory.mktemp("page") / "run"
    run(folder, **{**KEYS, "train.num_steps": 6, "log.every_steps": 2})
    sift = folder / "sift"
    sift.mkdir()
    rows, thumbnails, summary = sifted.made(50)
    sift_page.write(str(sift / "sift.html"), rows, thumbnails, summary)
    sheet.draw(str(sift / "sheet.png"), rows, thumbnails, summary)
    files.write_json(str(sift / "summary.json"), summary)
    assert report.main([str(folder), "--draw"]) == 0
    return folder


@pytest.fixture
def opened(open_page, folder):
    """opened(viewport, scheme) loads the page and waits for its charts."""

    def open_(viewport=DESK, scheme="light"):
        page = open_page(folder / "report.html", viewport, scheme)
        page.wait_for_function(
            "[...document.querySelectorAll('.plotly-graph-div')]"
            ".every(chart => chart.querySelector('.main-svg'))"
        )
        return page

    return open_


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_readable_and_no_wider_than_the_screen(opened, scheme, viewport):
    page = opened(viewport, scheme)
    texts = [(x, "body", "color") for x in ("h1", "dd", "dt", "td", ".charts h3")]
    charts = ".plotly-graph-div .xtick text", ".plotly-graph-div .legendtext"
    texts += [(x, "body", "fill") for x in charts]
    check_readable(page, "report", viewport, scheme, texts, full_page=True)
    for box in page.locator(".plotly-graph-div, .figures *").evaluate_all(
        "charts => charts.map(c => c.getBoundingClientRect().right)"
    ):
        assert box <= viewport["width"]


def test_images_are_whole(opened):
    """Queue, mistakes, Grad-CAM++, t-SNE: every picture of the page decodes."""
    page = opened()
    for name in ("What the queue holds", "What the networks look at", "Features of"):
        assert page.get_by_role("heading", name=name).count() == 1
    widths = page.locator("img").evaluate_all("all => all.map(i => i.naturalWidth)")
    assert len(widths) > 5 and min(widths) > 0


def test_the_link_leads_to_the_sifted_images(opened):
    page = opened()
    page.get_by_role("link", name="All images, to look at and to tick").click()
    page.wait_for_selector(".tile")
    assert page.url.endswith("/run/sift/sift.html")
