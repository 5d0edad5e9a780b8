"""The report page in headless Chromium, light and dark, on a desk and a phone."""

import json

import pytest
from playwright import sync_api
from support import sifted
from support.results import write_run
from support.runs import KEYS, run
from support.screens import (
    DESK,
    PHONE,
    check_accessible,
    check_nothing_cut_off,
    check_readable,
    check_words_whole,
)

from rsmatch_jax import files
from rsmatch_jax.report import __main__ as report
from rsmatch_jax.report import grid
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


@pytest.fixture(scope="module")
def table_folder(tmp_path_factory):
    """Runs of a sweep in two columns, and others that differ in keys with long names
    and values: twelve rows."""
    base = tmp_path_factory.mktemp("table")
    plain = {"train.num_steps": 20, "method.name": "rsmatch"}
    cells = tuple(
        grid.Cell(row, column, "common", {**plain, **keys, "data.synthetic_ratio": r})
        for row, keys in (
            ("RSMatch with a name that is rather long", {}),
            ("Base", {"method.name": "fixmatch"}),
        )
        for column, r in (("r = 0.5", 0.5), ("r = 0.7", 0.7))
    )
    sweep = grid.Sweep(name="mine", title="Two columns", cells=cells, baseline="Base")
    grid.write_record(str(base), sweep, [0, 1], {})
    others = [
        {"method.rsmatch.route_warmup_steps": 1_000_000_000 * a, "train.batch_size": b}
        for a in (0, 1, 2, 3)
        for b in (16, 32, 64)
    ]
    configs = [(base / c.folder(), c.config_dict()) for c in cells]
    configs += [
        (
            base / f"other{i}",
            cells[0].config_dict({**keys, "data.synthetic_ratio": 0.9}),
        )
        for i, keys in enumerate(others)
    ]
    for i, (folder, config) in enumerate(configs):
        for seed in (0, 1):
            config.seed = seed
            detector = 0.6 + i / 50 if config.method.name == "rsmatch" else None
            best = 0.9 + 7 * i % 16 / 300 + seed / 1000
            place = folder / f"seed{seed}"
            write_run(place, config.to_dict(), best, detector=detector)
    assert report.main([str(base)]) == 0
    return base


@pytest.fixture
def opened(open_page, folder):
    """opened(viewport, scheme, folder) loads its page and waits for its charts."""

    def open_(viewport=DESK, scheme="light", folder=folder):
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
    plot = chart(page, "Accuracy")
    plot.locator(".points path").last.hover(force=True)
    hover = plot.locator(".hoverlayer")
    sync_api.expect(hover).to_contain_text("%")
    assert f"{100 * expected[-1]:.2f} %" in hover.text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_readable_and_no_wider_than_the_screen(opened, scheme, viewport):
    page = opened(viewport, scheme)
    texts = [(x, "body", "fill") for x in (".xtick text", ".ytick text", ".xtitle")]
    check_readable(page, "report", viewport, scheme, texts, full_page=True)
    check_accessible(page)
    check_nothing_cut_off(page)
    check_words_whole(page, "th, .legend span, nav a, figcaption")
    for box in page.locator(".plotly-graph-div, .figures *").evaluate_all(
        "charts => charts.map(c => c.getBoundingClientRect().right)"
    ):
        assert box <= viewport["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_tables_and_legends_fit(opened, table_folder, scheme, viewport):
    page = opened(viewport, scheme, table_folder)
    texts = [(".xtick text", "body", "fill")]
    check_readable(page, "tables", viewport, scheme, texts, full_page=True)
    check_accessible(page)
    check_nothing_cut_off(page)
    check_words_whole(page, "th, .legend span")
    names = page.locator("#table-2 tbody th").all_inner_texts()
    assert len(set(names)) == len(names) == 12
    assert {"rsmatch", "batch_size=16", "route_warmup_steps=1000000000"} <= {*names}
    assert "route_warmup_steps=3000000000, batch_size=16" in names
    # A row's mark and colour are the same in every chart.
    styles = {}
    for button in page.locator("#table-2 .legend button").all():
        path = button.locator("path").last
        style = path.get_attribute("d"), path.get_attribute("fill")
        assert styles.setdefault(button.inner_text(), style) == style
    assert len({*styles.values()}) == len(styles) == 12


def test_a_press_on_a_name_hides_its_line(opened, table_folder):
    page = opened(folder=table_folder)
    plot = page.locator("#table-2 .chart").first
    button, lines = plot.locator(".legend button").first, plot.locator(".scatter")
    count = lines.count()
    button.click()
    sync_api.expect(lines).to_have_count(count - 1)
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    sync_api.expect(lines).to_have_count(count)


def test_contents_lead_to_every_part(opened, folder):
    """Each link scrolls its heading onto the screen, and the date is a date."""
    page = opened()
    links = page.locator("nav a").all()
    assert len(links) > 8
    for link in links:
        link.click()
        place = page.locator(link.get_attribute("href"))
        sync_api.expect(place).to_be_in_viewport()
    titles = page.locator("section h2, section h3").all_inner_texts()
    assert {link.inner_text() for link in links} <= {*titles, "curves", "queues"}
    assert page.locator("nav").bounding_box()["y"] < page.locator("h2").first.evaluate(
        "h => h.getBoundingClientRect().top"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_have_the_ground_of_the_page(opened, scheme):
    """A picture's corner has the page's colour, light or dark."""
    page = opened(scheme=scheme)
    pictures = page.locator(".sheet img")
    assert pictures.count() == 4  # the queue, Grad-CAM++, t-SNE, the sifted sheet
    corners = pictures.evaluate_all(
        """all => all.map(image => {
            const canvas = document.createElement("canvas");
            canvas.getContext("2d").drawImage(image, 0, 0);
            const pixel = canvas.getContext("2d").getImageData(1, 1, 1, 1).data;
            return `rgb(${[...pixel].slice(0, 3).join(", ")})`;
        })"""
    )
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert corners == [ground] * 4


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
