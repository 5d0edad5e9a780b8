"""One run's part of the report page, from files written by hand."""

import html
import json
import re

import numpy as np
import pytest
from PIL import Image
from support.results import write_run
from test_report import sweep

from rsmatch_jax import files
from rsmatch_jax.analysis import explain, tsne
from rsmatch_jax.metrics import mistakes, names
from rsmatch_jax.report import __main__ as report
from rsmatch_jax.report import run_curves, run_section
from rsmatch_jax.runs import history, workdir

NAMES = ("cat", "dog", "<b>")
CONFUSION = np.array([[7, 2, 1], [0, 9, 1], [5, 0, 5]])


@pytest.fixture
def folder(tmp_path):
    """A finished run of RSMatch on three classes, with all its files."""
    folder = tmp_path / "run"
    config = {**sweep().cells[2].config_dict().to_dict(), "seed": 4}
    write_run(folder, config, 0.7, detector=0.9)
    data = {"class_names": NAMES, "generator_names": ["gen"]}
    files.write_json(str(folder / workdir.DATA_FILE), data)
    np.save(folder / workdir.CONFUSION_FILE, CONFUSION)
    images = np.arange(4 * 48, dtype=np.uint8).reshape(4, 4, 4, 3)
    worst = mistakes.Mistakes(
        images=images,
        of=np.array(["detector", "detector", "classifier", "classifier"]),
        index=np.array([11, 12, 13, 14], np.int32),
        labels=np.array([0, 1, 2, 0], np.int32),
        predicted=np.array([0, 1, 0, 1], np.int32),
        score=np.array([0.875, 0.125, 0.75, 0.5], np.float32),
        origin=np.array(["real", "gen", "real", "real"]),
    )
    (folder / workdir.MISTAKES_FILE).write_bytes(worst.to_bytes())
    with open(folder / "metrics.jsonl", "a") as f:
        line = {
            "step": 30,
            "eval/test_accuracy": 0.7,
            "eval/detector_accuracy_per_class": [0.5, None, 0.25],
            "eval/detector_accuracy_per_generator": {"real": 0.75, "gen": 0.625},
            "eval/queue_purity_per_class": [1.0, 0.5, None],
            "eval/test_reliability": {
                "count": [0] * 14 + [30],
                "confidence": [None] * 14 + [0.96],
                "accuracy": [None] * 14 + [0.7],
            },
        }
        f.write(json.dumps(line) + "\n")
    Image.new("RGB", (4, 4), (9, 9, 9)).save(folder / "queue.png")
    return folder


def page(folder, *more):
    assert report.main([str(folder), *more]) == 0
    text = (folder / "report.html").read_text()
    return text[text.index("<body>") :]


def rows(text, heading):
    """Cells of the first table after a heading."""
    table = text[text.index(heading) :]
    table = table[: table.index("</table>")]
    return [
        [
            html.unescape(c).replace("<wbr>", "")
            for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        ]
        for row in re.findall(r"<tr>(.*?)</tr>", table)
    ]


def test_a_run_is_shown_in_detail(folder):
    text = page(folder)
    assert rows(text, ">Classes</h3>") == [
        ["class", "recall, %", "detector accuracy, %", "queue purity, %"],
        ["cat", "70.00", "50.00", "100.00"],
        ["dog", "90.00", "", "50.00"],
        ["<b>", "50.00", "25.00", ""],
    ]
    assert rows(text, ">Most confused pairs</h3>")[1:] == [
        ["<b>", "cat", "5 of 10"],
        ["cat", "dog", "2 of 10"],
        ["cat", "<b>", "1 of 10"],
        ["dog", "<b>", "1 of 10"],
    ]
    captions = [html.unescape(c) for c in re.findall(r"<figcaption>(.*?)<", text)]
    assert captions == [
        "cat: 87.5 % synthetic",
        "dog: 12.5 % synthetic",
        "<b> taken for cat, 75.0 % sure",
        "cat taken for dog, 50.0 % sure",
    ]
    assert "unlabelled image 12, gen" in text and "test image 14" in text
    titles = re.findall(r"<h4>(.*?)</h4>", text)
    for title in (
        "Reliability, last evaluation",
        "Accuracy",
        "Detector accuracy by class",
        "Queue purity by class",
        "Losses",
    ):
        assert titles.count(title) == 1
    assert "Test accuracy" not in titles  # not once more beside the table
    assert "Detector accuracy by origin" not in titles  # of a single generator
    assert text.count("data:image/png;base64,") == 5  # four mistakes, the queue once
    assert "rsmatch tsne --workdir=" in text  # what is not drawn yet
    keys = dict(rows(text, "<summary>Configuration"))
    assert keys["seed"] == "4" and keys["method.name"] == "rsmatch"


def test_pictures_and_figures_of_other_commands_are_taken_in(folder):
    for name in ("tsne", "gradcam"):
        Image.new("RGB", (4, 4)).save(folder / f"{name}.png")
    figures = {"probe_balanced_accuracy": 0.625, "centroid_distance": None}
    files.write_json(str(folder / "tsne.json"), {"step": 20, "classifier": figures})
    text = page(folder)
    assert text.count("data:image/png;base64,") == 7
    assert "not drawn yet" not in text
    assert rows(text, ">Features of unlabelled images</h3>")[-1] == [
        "classifier",
        "62.50",
        "",
    ]
    assert "Drawn at step" not in text  # the run's last step is 20
    files.write_json(str(folder / "gradcam.json"), {"step": 10})
    assert page(folder).count("Drawn at step 10, not the last one.") == 1


def test_what_sift_wrote_is_shown(folder, tmp_path):
    """Its figures, its sheet and a link to its page, from wherever the report lies."""
    assert "images are synthetic</h3>" not in page(folder)
    sift = folder / "sift"
    sift.mkdir()
    summary = {
        "estimated_share": 0.5,
        "estimated_share_interval": [0.4, 0.625],
        "share_at_least": None,
        "threshold": 0.75,
        "held_out_real": 30,
        "verdicts": {"real": 1, "synthetic": 2, "unsure": None},
        "by": "detector",
    }
    files.write_json(str(sift / "summary.json"), summary)
    text = page(folder)
    assert dict(re.findall(r'data-sift="(.*?)">(.*?)<', text)) == {
        "verdicts.real": "1 (33.3 %)",
        "verdicts.synthetic": "2 (66.7 %)",
        "estimated_share": "50 % (90 % interval 40 to 62.5 %)",
        "threshold": "0.750",
        "held_out_real": "30",
        "by": "the run&#39;s detector",
    }
    assert "images are synthetic</h3>" in text and 'href="sift' not in text
    assert "Judged at" not in text
    files.write_json(str(sift / "summary.json"), {**summary, "step": 10})
    assert page(folder).count("Judged at step 10, not the last one.") == 1
    count = text.count("data:image/png;base64,")
    Image.new("RGB", (4, 4)).save(sift / "sheet.png")
    (sift / "sift.html").touch()
    text = page(folder)
    assert text.count("data:image/png;base64,") == count + 1
    assert '<a href="sift/sift.html">' in text
    moved, out = folder.rename(tmp_path / "run #1"), tmp_path / "out"
    out.mkdir()
    assert report.main([str(moved), f"--out={out}/r.html"]) == 0
    assert '<a href="../run%20%231/sift/sift.html">' in (out / "r.html").read_text()
    moved.rename(folder)
    files.write_json(str(sift / "summary.json"), dict.fromkeys(summary))
    assert "data-sift" not in page(folder) and "sift.html" in page(folder)
    (sift / "summary.json").write_text("{")
    assert report.main([str(folder)]) == 2


def test_draw_makes_what_is_missing_or_old(folder, monkeypatch):
    drawn = []

    def command(name, code=0):
        def main(argv):
            drawn.append((name, argv))
            Image.new("RGB", (4, 4)).save(folder / f"{name}.png")
            files.write_json(str(folder / f"{name}.json"), {"step": 20})
            return code

        return main

    monkeypatch.setattr(explain, "main", command("gradcam"))
    monkeypatch.setattr(tsne, "main", command("tsne"))
    text = page(folder, "--draw")
    both = [(name, [f"--workdir={folder}"]) for name in ("gradcam", "tsne")]
    assert report.main([str(folder), "--data_dir=/d"]) == 2
    assert drawn == both and "not drawn yet" not in text
    page(folder, "--draw")
    assert drawn == both
    files.write_json(str(folder / "tsne.json"), {"step": 10})
    monkeypatch.setattr(tsne, "main", command("tsne", code=2))
    (folder / "report.html").unlink()
    assert report.main([str(folder), "--draw", "--data_dir=/d"]) == 1
    assert drawn == [*both, ("tsne", [f"--workdir={folder}", "--data_dir=/d"])]
    assert (folder / "report.html").exists()
    assert report.main([str(folder.parent), "--draw"]) == 2


def test_a_command_to_copy_quotes_a_folder_with_blanks():
    command = run_section.command(run_section.TSNE, "/my runs/a")
    assert command == "rsmatch tsne --workdir='/my runs/a'"


def test_a_run_without_detector_or_of_an_earlier_version(tmp_path):
    config = sweep().cells[0].config_dict().to_dict()
    write_run(tmp_path / "run", config, 0.7)
    text = page(tmp_path / "run")
    assert "Detector and queue" not in text and "Most confused" not in text
    assert 'data-figure="test_accuracy">69.00 %' in text
    np.save(tmp_path / "run" / workdir.CONFUSION_FILE, CONFUSION)
    assert rows(page(tmp_path / "run"), ">Most confused pairs</h3>")[1] == [
        "2",
        "0",
        "5 of 10",
    ]


def test_runs_below_a_folder_are_not_shown_in_detail(folder):
    assert report.main([str(folder.parent)]) == 0
    assert "data-run=" not in (folder.parent / "report.html").read_text()


@pytest.mark.parametrize(
    "name", ["mistakes.npz", "confusion.npy", "tsne.json", "gradcam.png"]
)
def test_broken_files_are_named(folder, capsys, name):
    Image.new("RGB", (4, 4)).save(folder / "tsne.png")
    (folder / name).write_bytes(b"{")
    assert report.main([str(folder)]) == 2
    printed = capsys.readouterr().err
    assert f"{folder}/{name} cannot be read" in printed and "Traceback" not in printed


def test_charts_and_figures_show_metrics_that_are_in_the_table_of_names():
    charts = {**run_curves.CLASSIFIER, **run_curves.DETECTOR}
    keys = {key for chart in charts.values() for key in chart.values()}
    assert keys - {"train/utilisation"} <= {f"eval/{name}" for name in names.TITLES}
    result = history.Record().result(
        status="", config=sweep().cells[0].config_dict(), step=0, fingerprint=None
    )
    assert set(names.RESULT_TITLES) <= set(workdir.flat(result))
    assert set(names.COLUMNS.values()) <= set(names.RESULT_TITLES)


def test_many_classes_are_drawn_as_quantiles(monkeypatch):
    """The quantiles equal numpy's; one of the 101 classes has no images."""
    drawn = {}
    monkeypatch.setattr(
        run_curves.curves, "chart", lambda title, lines: drawn.update({title: lines})
    )
    shares = [None, *(k / 100 for k in range(1, 101))]
    lines = [{"step": 5, "eval/queue_purity_per_class": shares}]
    run_curves.of_detector(lines, [str(k) for k in range(101)])
    (chart,) = [v for k, v in drawn.items() if k.startswith("Queue purity by class")]
    expected = [(5, 1), (5, 1 + 0.1 * 99), (5, 50.5), (5, 100)]
    np.testing.assert_allclose([line.points[0] for line in chart], expected)


def test_classes_over_steps_are_a_heat_map():
    """A row per class in order, a column per step; an unknown share stays blank."""
    lines = [
        {"step": step, "eval/queue_purity_per_class": shares}
        for step, shares in ((5, [0.5, None]), (10, [1.0, 0.25]))
    ]
    charts = [c for c in run_curves.of_detector(lines, ["cat", "dog"]) if c]
    (chart,) = charts
    assert chart.title == "Queue purity by class" and '"type":"heatmap"' in chart.html
    values = {}
    for key in ("x", "y", "z"):
        begin = chart.html.index(f'"{key}":[') + 4
        values[key], _ = json.JSONDecoder().raw_decode(chart.html[begin:])
    assert values == {
        "x": ["5", "10"],
        "y": ["cat", "dog"],
        "z": [[50.0, 100.0], [None, 25.0]],
    }
    assert '"zmin":20' in chart.html


def test_a_run_beside_others_has_its_curves_once(folder):
    """The comparison has test accuracy and detector; the run's part has the others."""
    config = {**sweep().cells[0].config_dict().to_dict(), "seed": 4}
    write_run(folder.parent / "other", config, 0.6)
    text = page(folder, str(folder.parent / "other"))
    titles = re.findall(r"<h4>(.*?)</h4>", text)
    assert titles.count("Test accuracy") == 1 and "Accuracy" not in titles
    assert titles.count("Detector: accuracy on unlabelled images (Fig. 4a)") == 1
    assert "Detector accuracy on unlabelled images (Fig. 4a)" not in titles
    assert "Queue purity by class" in titles
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == ["Runs by setting", "rsmatch, seed 4", "fixmatch, seed 4"]


def test_every_generator_has_a_line_if_there_are_several():
    shares = {"real": 0.5, "a": 0.25, "b": 1.0}
    lines = [{"step": 1, run_curves.ORIGINS: shares}]
    (chart,) = [c for c in run_curves.of_detector(lines, []) if c]
    assert [entry.name for entry in chart.legend] == ["real", "a", "b"]


def test_a_picture_comes_with_its_dark_twin(folder):
    count = page(folder).count("data:image/png;base64,")
    Image.new("RGB", (4, 4)).save(folder / "queue.dark.png")
    text = page(folder)
    assert text.count("data:image/png;base64,") == count + 1
    assert '<source media="(prefers-color-scheme: dark)"' in text
