"""Tables, CSV and page, from results written by hand."""

import csv
import io
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from support.results import write_run
from support.screens import contrast

from rsmatch_jax.report import __main__ as report
from rsmatch_jax.report import collect, curves, grid, styles, tables

SEEDS = [0, 1, 2]
BEST = {
    "FixMatch": [0.91, 0.93, 0.92],
    "RSMatch": [0.95, 0.94, 0.96],
    "Base": [0.9] * 3,
}
DETECTOR = [0.8, 0.9, 0.85]


def sweep():
    def cell(row, more, **figures):
        keys = {"method.name": "fixmatch", "train.num_steps": 20, **more}
        return grid.Cell(row, "r = 0.5, CIFAR-10", "common", keys, **figures)

    return grid.Sweep(
        name="mine",
        title="My table",
        baseline="Base",
        note="A note.",
        cells=(
            cell("FixMatch", {}, accuracy=(92.0, 0.4)),
            cell("Base", {"data.real_only": True}, accuracy=(91.0, None)),
            cell(
                "RSMatch",
                {"method.name": "rsmatch"},
                accuracy=(93.5, 0.2),
                detector=99.11,
                note="printed twice",
            ),
        ),
    )


def write_sweep(base, more=None, leave_out=()):
    """All runs of `sweep()` and its record."""
    table = sweep()
    base.mkdir(parents=True, exist_ok=True)
    grid.write_record(str(base), table, SEEDS, more or {})
    for cell in table.cells:
        for seed in SEEDS:
            if (cell.row, seed) not in leave_out:
                config = {**cell.config_dict(more).to_dict(), "seed": seed}
                write_run(
                    base / cell.folder() / f"seed{seed}",
                    config,
                    BEST[cell.row][seed],
                    detector=DETECTOR[seed] if cell.row == "RSMatch" else None,
                )
    return base


def printed(capsys):
    """{(row, figure): texts of the columns} of the Markdown on the terminal."""
    table, row = {}, ""
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("|") and "---" not in line:
            name, figure, *cells = (c.strip() for c in line.strip("|").split("|"))
            row = name or row
            table[row, figure.removesuffix(", %")] = cells
    return table


def test_table_of_a_sweep(tmp_path, capsys):
    """Mean, sample standard deviation and difference equal numpy's, the difference's
    interval scipy's."""
    write_sweep(tmp_path / "o")
    assert report.main([str(tmp_path / "o")]) == 0
    table = printed(capsys)
    for row in BEST:
        values = 100 * np.array(BEST[row])
        expected = f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"
        if row != "Base":
            pairs = values - 100 * np.array(BEST["Base"])
            low, high = stats.ttest_1samp(pairs, 0).confidence_interval(0.9)
            expected += f" ({pairs.mean():+.2f} ± {(high - low) / 2:.2f})"
        assert table[row, "best"] == [expected]
    assert table["RSMatch", "last"] == ["94.00 ± 1.00 (+5.00 ± 1.69)"]
    assert ("RSMatch", "last four") not in table  # there are two
    assert table["RSMatch", "paper"] == ["93.50 ± 0.2 (+2.50)"]
    assert table["Base", "paper"] == ["91.00"]
    assert table["RSMatch", "detector"] == ["75.00 ± 5.00"]
    assert table["RSMatch", "detector, plain"] == ["85.00 ± 5.00"]
    assert table["RSMatch", "detector, paper"] == ["99.11"]
    assert ("FixMatch", "detector") not in table
    assert table["FixMatch", "finished runs"] == ["3"]
    assert table["setting", "figure"] == ["r = 0.5, CIFAR-10"]


def test_a_terminal_that_cannot_show_a_sign(tmp_path, monkeypatch):
    write_sweep(tmp_path)
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert report.main([str(tmp_path)]) == 0
    assert b"| 91.00 \\xb1 1.00" in out.buffer.getvalue()


def test_missing_unfinished_and_broken_runs_are_counted(tmp_path, capsys):
    base = write_sweep(tmp_path, leave_out={("FixMatch", 1), ("FixMatch", 2)})
    fix, _, rsmatch = sweep().cells
    config = {**fix.config_dict().to_dict(), "seed": 1}
    write_run(base / fix.folder() / "seed1", config, 0.99, status="running", steps=10)
    (base / rsmatch.folder() / "seed0" / "result.json").write_text('{"status": "fin')
    assert report.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| 91.00 (+1.00)" in out  # the unfinished one does not count
    assert "1 (1 unfinished, 1 missing)" in out
    assert "2 (1 broken)" in out
    assert "running at step 10 of 20, not in the figures" in out
    assert f"{rsmatch.folder()}/seed0 is broken" in out


def test_run_of_another_setting_does_not_count(tmp_path, capsys):
    base = write_sweep(tmp_path, leave_out={("Base", 0)})
    cell = sweep().cells[1]
    config = {**cell.config_dict({"optim.learning_rate": 1.0}).to_dict(), "seed": 0}
    write_run(base / cell.folder() / "seed0", config, 0.1)
    assert report.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "optim.learning_rate=1.0, but this cell has 0.03" in out
    assert "| 90.00 ± 0.00 " in out


def test_reduced_runs_are_marked_everywhere(tmp_path, capsys):
    write_sweep(tmp_path, {"train.num_steps": 7})
    assert report.main([str(tmp_path)]) == 0
    table = printed(capsys)
    ours = [v for (_, what), v in table.items() if what in ("best", "last", "detector")]
    assert len(ours) == 7
    assert all(cell.endswith("†") for (cell,) in ours)
    assert table["RSMatch", "paper"] == ["93.50 ± 0.2 (+2.50)"]
    page = (tmp_path / "report.html").read_text()
    assert "train.num_steps 7 instead of 20" in page
    assert page.count("†") == 7 + 2 + 1  # detector, plain; queue purity; the legend
    with open(tmp_path / "report.csv") as f:
        assert {line["reduced"] for line in csv.DictReader(f)} == {
            "train.num_steps 7 instead of 20"
        }


def test_csv_holds_the_table_and_the_runs(tmp_path):
    write_sweep(tmp_path / "o", leave_out={("Base", 2)})
    argv = [str(tmp_path / "o"), f"--out={tmp_path}/page.html"]
    assert report.main(argv) == 0
    with open(tmp_path / "page.csv") as f:
        lines = {line["row"]: line for line in csv.DictReader(f)}
    rsmatch = lines["RSMatch"]
    assert float(rsmatch["best_mean"]) == pytest.approx(95.0)
    assert float(rsmatch["best_std"]) == pytest.approx(1.0)
    assert float(rsmatch["best_difference"]) == pytest.approx(4.5)  # of seeds 0, 1
    assert float(rsmatch["median20_mean"]) == pytest.approx(93.0)
    assert float(rsmatch["paper_difference"]) == pytest.approx(2.5)
    assert rsmatch["note"] == "printed twice"
    assert (lines["Base"]["finished"], lines["Base"]["missing"]) == ("2", "1")
    assert lines["Base"]["detector_accuracy_mean"] == ""
    with open(tmp_path / "page.runs.csv") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 8
    best = {float(r["best"]) for r in rows if r["method"] == "rsmatch"}
    assert best == {0.95, 0.94, 0.96}


def test_page_is_one_file_with_table_curves_and_pictures(tmp_path):
    base = write_sweep(tmp_path / "o")
    sheet = base / sweep().cells[2].folder() / "seed0" / "queue.png"
    Image.new("RGB", (4, 4), (9, 9, 9)).save(sheet)
    assert report.main([str(base)]) == 0
    page = (base / "report.html").read_text()
    body = page[page.index("<body>") :]
    for value in ("95.00 ± 1.00 (+5.00 ± 1.69)", "93.50 ± 0.2 (+2.50)", "A note."):
        assert value in body
    # Differences, accuracy, detector.
    assert body.count('class="plotly-graph-div"') == 3
    assert body.count("data:image/png;base64,") == 1
    tags = re.findall(r"<(?:script|link|img|iframe)[^>]*>", page)
    assert not [t for t in tags if "http" in t or "//" in t.replace("base64,//", "")]


def test_summary_and_contents_stand_on_top(tmp_path):
    """Counts and the highest figure; every link leads to a place of the page."""
    base = write_sweep(tmp_path, leave_out={("FixMatch", 1)})
    assert report.main([str(base)]) == 0
    page = (base / "report.html").read_text()
    contents = page[page.index("<nav") : page.index("</nav>")]
    assert page.index("<nav") < page.index("<main")
    assert "Settings: 3. Runs: 8 finished, 1 missing." in contents
    assert "Highest test accuracy: RSMatch, 95.00 ± 1.00 %." in contents
    links = re.findall(r'href="#(.*?)"', page)
    assert len(links) >= 2 and set(links) <= set(re.findall(r'id="(.*?)"', page))
    assert re.search(r"Written \d{4}-\d\d-\d\d \d\d:\d\d ", page)


def test_a_table_of_one_column_has_a_column_per_figure(tmp_path):
    """Those that no row has are left out, here the mean of the last four."""
    base = write_sweep(tmp_path)
    assert report.main([str(base)]) == 0
    page = (base / "report.html").read_text()
    table = page[page.index('<table class="results">') :].split("</table>")[0]
    assert re.findall(r'<th scope="col">(.*?)</th>', table) == [
        *("setting", "best, %", "paper, %", "last, %", "detector, %"),
        *("queue purity, %", "detector, plain, %", "detector, paper, %"),
        "finished runs",
    ]
    assert re.findall(r'<th scope="row">(.*?)</th>', table) == [
        c.row for c in sweep().cells
    ]
    assert table.count("<td>3</td>") == 3  # runs
    assert "<p>R = 0.5, CIFAR-10.</p>" in page  # the column's name


def test_equal_curves_are_drawn_once(tmp_path):
    """Two rows with the same points share a line, under both names."""
    lines = [
        curves.Line(n, [(1, v), (2, v)]) for n, v in (("a", 1), ("b", 2), ("c", 1))
    ]
    chart = curves.chart("t", [curves.Line("empty", []), *lines])
    assert [entry.name for entry in chart.legend] == ["a = c", "b"]
    assert [entry.style for entry in chart.legend] == [styles.of(1), styles.of(2)]
    assert chart.html.count('"mode":"lines+markers"') == 2


def test_styles_differ_in_grey_and_are_strong_enough():
    """Every mark and dash of the first 140; WCAG asks graphics for a contrast of 3 to
    their ground, here white and the page's dark one."""
    made = [styles.of(i) for i in range(140)]
    assert len(set(made)) == 140
    assert len({(style.dash, style.mark) for style in made[:7]}) == 7
    for colour in styles.COLOURS:
        rgb = ", ".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
        for ground in ("255, 255, 255", "20, 23, 27"):
            assert contrast(rgb, ground) > 3, colour


def test_differences_are_those_of_equal_seeds(tmp_path, capsys):
    """Of the last four evaluations where runs have them; a seed that one of the rows
    lacks does not count, and one pair has no interval."""
    write_sweep(tmp_path, leave_out={("RSMatch", 0), ("FixMatch", 1), ("FixMatch", 2)})
    late = {}
    for cell in sweep().cells:
        for seed in SEEDS:
            path = tmp_path / cell.folder() / f"seed{seed}" / "metrics.jsonl"
            if not path.exists():
                continue
            shares = np.random.default_rng(seed).uniform(0.4, 0.6, 6)
            shares += BEST[cell.row][seed] - 0.5
            with open(path, "w") as f:
                for step, share in enumerate(shares.tolist()):
                    line = {"step": step, "eval/test_accuracy": share}
                    f.write(json.dumps(line) + "\n")
            late[cell.row, seed] = 100 * shares[-4:].mean()
    assert report.main([str(tmp_path)]) == 0
    table = printed(capsys)
    pairs = [late["RSMatch", seed] - late["Base", seed] for seed in (1, 2)]
    low, high = stats.ttest_1samp(pairs, 0).confidence_interval(0.9)
    expected = f"({np.mean(pairs):+.2f} ± {(high - low) / 2:.2f})"
    assert table["RSMatch", "last four"][0].endswith(expected)
    single = late["FixMatch", 0] - late["Base", 0]
    assert table["FixMatch", "last four"] == [
        f"{late['FixMatch', 0]:.2f} ({single:+.2f})"
    ]
    with open(tmp_path / "report.csv") as f:
        lines = {line["row"]: line for line in csv.DictReader(f)}
    assert float(lines["RSMatch"]["last_four_difference"]) == pytest.approx(
        np.mean(pairs)
    )
    assert lines["FixMatch"]["last_four_difference_half"] == ""
    runs, records = collect.find([str(tmp_path)])
    ((base, record),) = records.values()
    html = curves.of_differences(tables.of_sweep(base, record, runs)).html
    shown, halves = (
        json.loads(re.search(rf'"{name}":(\[.*?\])', html)[1])
        for name in ("x", "array")
    )
    assert shown == pytest.approx([single, np.mean(pairs)])
    assert halves == pytest.approx([0, (high - low) / 2])
    ends = json.loads(re.search(r'"customdata":(\[.*?\])', html)[1])
    assert ends == ["", f" ± {(high - low) / 2:.2f}"]


def test_curves_are_means_over_seeds(tmp_path):
    write_sweep(tmp_path)
    runs, records = collect.find([str(tmp_path)])
    ((base, record),) = records.values()
    cell = tables.of_sweep(base, record, runs).cell("RSMatch", "r = 0.5, CIFAR-10")
    line = curves.mean_line("a", cell.runs, "eval/test_accuracy")
    assert line.points == [(10, pytest.approx(90.0)), (20, pytest.approx(95.0))]
    assert line.notes[0] == " % (90.00 / 89.00 / 91.00)"
    line = curves.mean_line("a", cell.runs, "eval/detector_accuracy")
    assert line.points == [(10, pytest.approx(42.5)), (20, pytest.approx(85.0))]
    assert curves.mean_line("a", cell.runs, "eval/nothing").points == []


def test_plain_runs_are_gathered_by_setting(tmp_path, capsys):
    """A row per setting, each seed once, beside the paper's figure for such a run."""
    paper = grid.load()["table1"].cells[1]  # FixMatch, CIFAR-10, ratio 0.5
    short = paper.config_dict({"train.num_steps": 20}).to_dict()
    shorter = paper.config_dict({"train.num_steps": 10}).to_dict()
    write_run(tmp_path / "a", {**short, "seed": 0}, 0.5)
    write_run(tmp_path / "b", {**short, "seed": 1}, 0.6)
    write_run(tmp_path / "b again", {**short, "seed": 1}, 0.6)
    write_run(tmp_path / "c", {**shorter, "seed": 0}, 0.4)
    assert report.main([str(tmp_path)]) == 0
    captured = capsys.readouterr().out
    rows = re.findall(r"\| (\S+) +\| best, % +\| (.*?) +\|", captured)
    assert rows == [("fixmatch", "55.00 ± 7.07 †"), ("num_steps=10", "40.00 †")]
    assert "Where a row says nothing else: train.num_steps=20." in captured
    assert captured.count("92.28 ± 0.4") == 2
    assert "train.num_steps 20 instead of 1048576" in captured
    assert "b again: another run of the same setting and seed (1)" in captured


def test_overlapping_folders_count_once(tmp_path, capsys, monkeypatch):
    write_sweep(tmp_path / "o")
    monkeypatch.chdir(tmp_path)
    argv = ["o/", "o/" + sweep().cells[0].folder(), str(tmp_path)]
    assert report.main(argv) == 0
    out = capsys.readouterr().out
    assert out.count("## ") == 1
    with open(tmp_path / "o" / "report.csv") as f:
        assert len(list(csv.DictReader(f))) == 3


def test_validation_and_pools_of_plain_runs_are_said(tmp_path, capsys):
    cell = sweep().cells[0]
    keys = {"data.validation_per_class": 5, "data.synthetic_pool": "a"}
    write_run(tmp_path / "a", cell.config_dict(keys).to_dict(), 0.5)
    assert report.main([str(tmp_path)]) == 0
    assert "chosen on validation images;" in capsys.readouterr().out
    keys = {"data.synthetic_pool": "b"}
    write_run(tmp_path / "b", cell.config_dict(keys).to_dict(), 0.5)
    assert report.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "where a run has them, else on the test set" in out
    assert "data.synthetic_pool=a" in out and "| synthetic_pool=b " in out


def test_a_sweep_that_has_only_begun(tmp_path, capsys):
    grid.write_record(str(tmp_path), sweep(), SEEDS, {})
    assert report.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("3 missing") == 3


@pytest.mark.parametrize("content", ["[1]", "{", '{"status": "finished"}', '{"a": 1}'])
def test_foreign_or_half_written_result(tmp_path, capsys, content):
    """Exit code 2 if it is alone; beside a good run the page calls it broken."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "result.json").write_text(content)
    assert report.main([str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert str(tmp_path / "x") in printed
    assert "Traceback" not in printed
    write_run(tmp_path / "good", sweep().cells[0].config_dict().to_dict(), 0.5)
    assert report.main([str(tmp_path)]) == 0
    assert f"{tmp_path}/x is broken" in capsys.readouterr().out
    (tmp_path / "good" / "metrics.jsonl").write_text("not json\n")
    assert report.main([str(tmp_path)]) == 2
    assert "metrics.jsonl cannot be read" in capsys.readouterr().err
