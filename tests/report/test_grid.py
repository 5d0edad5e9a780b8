"""The paper's tables as data."""

import json

import pytest

from rsmatch_jax import sweep
from rsmatch_jax.errors import RequestError
from rsmatch_jax.report import grid

# As printed in Table 1 and 2: differences to "FixMatch (real only)".
PRINTED = {
    "table1": {
        "FixMatch": [-1.42, -0.67, 1.63, 0.06, 0.62, 3.34],
        "FlexMatch": [-0.74, -0.12, 1.46, -0.54, 0.63, 2.79],
        "SimMatch": [-1.02, -2.38, 0.63, -1.57, 1.31, 3.69],
        "FreeMatch": [-0.57, 0.56, 1.19, -0.54, -0.13, 0.73],
        "RSMatch": [0.16, 0.86, 3.25, 1.12, 2.30, 4.27],
    },
    "table2": {  # signs of the first four at 100 labels of CIFAR-10 are unreadable
        "FixMatch": [None, 0.24, None, 0.56],
        "FlexMatch": [None, -0.34, None, 0.59],
        "SimMatch": [None, -0.13, None, 1.58],
        "FreeMatch": [None, -0.11, None, 0.16],
        "RSMatch": [0.86, 1.47, None, 1.44],
    },
}


@pytest.mark.parametrize("name", PRINTED)
def test_figures_give_the_differences_that_the_paper_prints(name):
    cells = grid.load()[name].cells
    base = [c.accuracy[0] for c in cells if c.row == "FixMatch (real only)"]
    for row, printed in PRINTED[name].items():
        ours = [c.accuracy[0] for c in cells if c.row == row]
        for a, b, expected in zip(ours, base, printed, strict=True):
            if expected is not None:
                assert a - b == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "cells"), [("table1", 36), ("table2", 24), ("table3", 8), ("digits", 18)]
)
def test_tables_have_their_cells(name, cells):
    table = grid.load()[name]
    assert len(table.cells) == cells
    assert len({c.folder() for c in table.cells}) == cells
    assert len({(c.row, c.column) for c in table.cells}) == cells


@pytest.mark.parametrize("name", grid.load())
def test_every_cell_is_a_config_that_runs(name):
    """Keys exist, values are valid, and each run has another setting."""
    table = grid.load()[name]
    settings, runs = set(), sweep._runs(table.cells, [0], "/tmp/nowhere", {})
    for r in runs:
        sweep._check(r)
        config = r.cell.config_dict().to_dict()
        settings.add(json.dumps(grid.setting(config), sort_keys=True))
    assert len(settings) == len(runs)
    shared = {"study": 9}  # "real only" is the same for all four pools
    assert len(runs) == len(table.cells) - shared.get(name, 0)
    assert table.baseline in {c.row for c in table.cells}


def test_table_3_switches_what_it_names():
    rows = {c.row: c.config_dict().method for c in grid.load()["table3"].cells}
    rsmatch = {row: method.rsmatch for row, method in rows.items()}
    assert not rsmatch["w/o individual models"].individual_models
    assert not rsmatch["w/o class-wise queue"].classwise_queue
    assert not rsmatch["w/o fake head"].fake_head
    assert rsmatch["RSMatch"].individual_models
    assert rsmatch["RSMatch, true routes"].routing == "oracle"
    assert rows["FixMatch"].name == "fixmatch"


def test_an_override_of_the_queue_is_for_cells_with_one():
    more = {"method.rsmatch.queue_length": 8}
    cells = grid.load()["detectors"].cells
    rows = {c.row for c in cells if more.items() <= c.all_overrides(more).items()}
    assert rows == {c.row for c in cells} - {"nnPU"}


def test_shortened_runs_are_known_as_such():
    cell = grid.load()["table1"].cells[0]
    config = cell.config_dict({"train.num_steps": 100, "data.data_dir": "/d"}).to_dict()
    assert grid.changed(cell, config) == {"train.num_steps": (2**20, 100)}
    assert grid.published({**config, "seed": 2}) == (cell, grid.changed(cell, config))
    config["data"]["synthetic_ratio"] = 0.4
    assert grid.published(config) is None


def test_foreign_record_is_named(tmp_path):
    path = tmp_path / "x.sweep.json"
    for content in ("{", "[1]", '{"name": "x"}'):
        path.write_text(content)
        with pytest.raises(RequestError, match="x.sweep.json (is no|cannot)"):
            grid.read_record(str(path))


def test_sweeps_share_folders_for_equal_settings_only():
    """Over all sweeps, because they may have the same --out."""
    folders, sweeps = {}, grid.load()
    paper = {cell.folder() for name in grid.PAPER for cell in sweeps[name].cells}
    assert len(paper) == 36 + 12 + 5  # Table 2: 100 labels; Table 3's own switches
    for table in sweeps.values():
        for cell in table.cells:
            setting = grid.setting(cell.config_dict().to_dict())
            assert folders.setdefault(cell.folder(), setting) == setting, cell
