"""Runs of an earlier version, and of this one, under a config with other keys."""

import json
import os
import pathlib
import shutil

import jax
import pytest
from PIL import Image
from support.helpers import config
from support.runs import KEYS

from configs import common
from rsmatch_jax import evaluate, predict, sweep
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.engine import config_file, saved_config, stages
from rsmatch_jax.errors import RequestError
from rsmatch_jax.report import collect
from rsmatch_jax.runs import workdir

OLD = pathlib.Path(__file__).parent / "old_workdir"
LATER = {  # keys that a later version may add: dotted key: (default, neutral)
    "model.made_up": ("new", "old"),
    "method.rsmatch.made_up": (3, 0),
    "method.simmatch.made_up": (None, 1.5),  # no run in OLD uses it
}
MADE_UP = ("model.made_up",)
BN_VARIANCE = "model.bn_variance"
LINE = (
    "began with, and keeps, method.rsmatch.made_up=0, "
    "model.bn_variance=biased, model.made_up=old"
)


def old_config(name="unfinished", **changes):
    """The config of an old run as this version's files and flags would give it."""
    saved = json.loads((OLD / name / workdir.CONFIG_FILE).read_text())
    keys = {k: v for k, v in workdir.flat(saved).items() if v is not None}
    return config(**{**keys, **changes})


@pytest.fixture
def later(monkeypatch):
    """This version has the keys LATER. later(changes): a config of it."""
    plain = saved_config.reference

    def reference():
        c, neutral = plain()
        neutral |= {key: value for key, (_, value) in LATER.items()}
        defaults = {key: value for key, (value, _) in LATER.items()}
        return saved_config.with_values(c, defaults), neutral

    monkeypatch.setattr(saved_config, "reference", reference)
    monkeypatch.setattr(saved_config, "neutral_values", lambda: reference()[1])
    monkeypatch.setattr(config_file, "defaults", lambda: reference()[0])

    def at(name="unfinished", **changes):
        new = {key: changes.pop(key, value) for key, (value, _) in LATER.items()}
        return saved_config.with_values(old_config(name, **changes), new)

    return at


@pytest.fixture
def old(tmp_path):
    return shutil.copytree(OLD, tmp_path / "old")


def run(folder, c, **options):
    return stages.run(c, str(folder), devices=jax.local_devices()[:1], **options)


def test_keys_that_old_workdirs_lack_have_a_neutral_value():
    saved = json.loads((OLD / "unfinished" / workdir.CONFIG_FILE).read_text())
    keys = set(workdir.flat(common.get_config().to_dict()))
    came_later = keys - set(workdir.flat(saved))
    assert came_later == set(common.neutral_values()), (
        "a new key is `Later(default, neutral=...)` in configs/common.py"
    )
    assert sum(p.stat().st_size for p in OLD.rglob("*") if p.is_file()) <= 300_000


def test_old_run_goes_on(old, later, capsys, monkeypatch):
    """It takes the neutral values, writes them to its config.json, and computes the
    same as without the later keys."""
    result = run(old / "unfinished", later())
    assert (result["status"], result["steps"]) == ("finished", 8)
    out = capsys.readouterr().out
    assert "resumed at step 4" in out
    assert out.count(LINE) == 1 and "simmatch" not in out
    folder = str(old / "unfinished")
    for part in (result["config"], workdir.read_config(folder)):
        assert part["model"]["made_up"] == "old"
        assert part["method"]["rsmatch"]["made_up"] == 0
    assert run(folder, later()) == workdir.read_result(folder)
    assert "began before" not in capsys.readouterr().out
    monkeypatch.undo()
    shutil.copytree(OLD / "unfinished", old / "again")
    assert run(old / "again", old_config())["fingerprint"] == result["fingerprint"]
    lines = [old / name / workdir.METRICS_FILE for name in ("unfinished", "again")]
    assert lines[0].read_bytes() == lines[1].read_bytes()


@pytest.mark.parametrize(
    ("changes", "explicit", "word"),
    [
        ({"model.made_up": "other"}, (), "up: old there .*without it.*, other here"),
        ({"model.made_up": "new"}, MADE_UP, "up: old there .*, new here"),
        ({"model.made_up": "old"}, MADE_UP, None),
        ({"method.simmatch.made_up": 7.0}, (), None),
        ({"method.simmatch.temperature": 0.3}, (), None),
        ({"optim.momentum": 0.8}, (), "optim.momentum: 0.9 there, 0.8 here"),
        ({"log.every_steps": 1, "input.prefetch": 9}, (), None),
        ({"data.data_dir": "/mnt", "data.download": False}, (), None),
        ({"data.cache_dir": "/mnt", "data.synthetic_pool": "/mnt"}, (), None),
    ],
)
def test_what_an_old_run_may_change(later, changes, explicit, word):
    folder = str(OLD / "unfinished")
    if word is not None:
        with pytest.raises(RequestError, match=word):
            saved_config.continue_run(folder, later(**changes), explicit)
        return
    values = saved_config.continue_run(folder, later(**changes), explicit)
    expected = {"model.made_up": "old", "method.rsmatch.made_up": 0}
    # Only what differs from the default.
    assert {"model.made_up": "old", **values} == {BN_VARIANCE: "biased", **expected}


def test_a_kept_value_is_said_at_every_start(tmp_path):
    """Also if config.json has it, of an older run's second start or by its flags."""
    folder, keys = str(tmp_path), {**KEYS, BN_VARIANCE: "biased"}
    workdir.claim(folder, config(**keys).to_dict(), {}, {})
    values = saved_config.continue_run(folder, config(**KEYS))
    line = saved_config.neutral_line(folder, values)
    assert line == f"this run began with, and keeps, {BN_VARIANCE}=biased"


def test_all_differences_are_named(tmp_path, capsys):
    """A removed key that the method used is one, one of another method is not."""
    saved = config(**KEYS).to_dict()
    workdir.claim(str(tmp_path), saved, {}, {})
    other = config(**{**KEYS, "optim.learning_rate": 0.1, "seed": 5})
    with pytest.raises(RequestError) as e:
        saved_config.continue_run(str(tmp_path), other)
    assert "optim.learning_rate: 0.03 there, 0.1 here" in str(e.value)
    assert "seed: 0 there, 5 here" in str(e.value)
    assert str(e.value).endswith("--overwrite")
    saved["method"]["simmatch"]["gone"] = 1
    workdir.claim(str(tmp_path), saved, {}, {})
    assert saved_config.continue_run(str(tmp_path), config(**KEYS)) == {}
    saved["optim"]["gone"] = 2
    workdir.claim(str(tmp_path), saved, {}, {})
    with pytest.raises(RequestError, match="optim.gone: 2 there, no such key here"):
        saved_config.continue_run(str(tmp_path), config(**KEYS))
    assert saved_config.load(str(tmp_path)).optim.gone == 2  # opened all the same
    warned = capsys.readouterr().err
    for key in ("method.simmatch.gone", "optim.gone"):
        assert f"has {key}, which this version does not know and ignores" in warned
    assert warned.count("\n") == 2


def test_key_without_a_neutral_value_is_refused(later):
    path = str(OLD / "unfinished" / workdir.CONFIG_FILE)
    saved = workdir.read_config(str(OLD / "unfinished"))
    later_keys = set(LATER) | set(common.neutral_values())
    assert set(saved_config.missing_values(saved, path)) == later_keys
    del saved["seed"]
    with pytest.raises(RequestError, match=r"config\.json lacks seed"):
        saved_config.missing_values(saved, path)


@pytest.mark.parametrize("name", ["unfinished", "finished"])
def test_old_run_is_evaluated_and_predicts(old, later, name, tmp_path, capsys):
    folder = old / name
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert evaluate.main([f"--workdir={folder}", "--step=best"]) == 0
    out, err = capsys.readouterr()
    expected = workdir.read_result(str(folder))["test_accuracy"]
    assert ["test", "accuracy", f"{expected:.4f}"] in map(str.split, out.splitlines())
    assert err.count("note: this run began with, and keeps, ") == 1
    assert ("method.rsmatch.made_up" in err) == (name == "unfinished")
    Image.fromarray(arrays.fake("test").images[0]).save(tmp_path / "a.png")
    assert predict.main([f"--workdir={folder}", str(tmp_path / "a.png")]) == 0
    assert json.loads(capsys.readouterr().out)["image"].endswith("a.png")
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_old_run_is_reported_as_one_of_this_version(later, old):
    runs, _ = collect.find([str(old)])
    finished = runs[os.path.realpath(old / "finished")]
    assert finished.config["model"]["made_up"] == "old"
    assert finished.figures["last"] == 0.2


def test_old_run_is_swept(later, old, tmp_path):
    """A sweep recognises it as a cell by the flags that it would launch."""
    file = tmp_path / "later.py"
    lines = ["from configs import common", "def get_config():"]
    lines += ["    c = common.get_config()"]
    lines += [f"    c.{key} = {value!r}" for key, (value, _) in LATER.items()]
    file.write_text("\n".join([*lines, "    return c"]))
    saved = workdir.flat(workdir.read_config(str(old / "finished")))
    flags = [f"--config.{k}={v}" for k, v in saved.items() if v is not None]

    def sweep_run(*more):
        argv = (f"--config={file}", *flags, *more, f"--workdir={old / 'finished'}")
        return sweep.Run(None, 0, str(old / "finished"), argv)

    sweep._check(sweep_run())
    assert sweep_run().finished()
    with pytest.raises(RequestError, match="made_up: old there .*without it.*, x here"):
        sweep._check(sweep_run("--config.model.made_up=x"))


def test_run_goes_on_where_its_data_were_moved(tmp_path):
    """Equal images at another place continue it, others do not."""
    pool = arrays.fake("pool")
    arrays.save(str(tmp_path / "a"), pool)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    pool.images[:] ^= 1
    arrays.save(str(tmp_path / "c"), pool)
    keys = {**KEYS, "method.name": "fixmatch", "train.num_steps": 1}

    def at(place):
        return config(**keys, **{"data.synthetic_pool": str(tmp_path / place)})

    run(tmp_path / "r", at("a"))
    (tmp_path / "r" / workdir.RESULT_FILE).unlink()  # as if it were unfinished
    run(tmp_path / "r", at("b"))
    (tmp_path / "r" / workdir.RESULT_FILE).unlink()
    with pytest.raises(RequestError, match="began with other images"):
        run(tmp_path / "r", at("c"))
