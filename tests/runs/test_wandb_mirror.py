"""What a run shows at Weights & Biases: by a stand-in for the package, and by the
package itself, offline, where it is installed."""

import importlib.machinery
import json
import sys
import threading
import types

import numpy as np
import pytest
from support import runs

from rsmatch_jax import train
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs import logbook, wandb_mirror, workdir

CONFIG = {"train": {"num_steps": 9}, "log": {"tensorboard": False, "wandb": "digits"}}


class StandIn(types.ModuleType):
    """Records the calls that the package would get."""

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None, origin="here")
        self.started, self.logged, self.ended, self.options = [], [], [], {}
        self.broken = None  # name of a call that fails
        self.hangs = threading.Event()
        self.hangs.set()

    def Settings(self, **options):
        self.options = options
        return options

    def setup(self, settings):
        assert settings is self.options

    def Image(self, array):
        return array

    def init(self, **options):
        self._fail("init")
        self.started.append(options)
        return self

    def log(self, values, step):
        self.hangs.wait(30)
        self._fail("log")
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.ended.append(exit_code)

    def _fail(self, call):
        if self.broken == call:
            raise RuntimeError(f"{call}: no\nconnection")


@pytest.fixture
def wandb(monkeypatch):
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def book(folder, num_bytes=0):
    return logbook.Logbook(str(folder), CONFIG, num_bytes=num_bytes)


def test_numbers_pictures_and_config_are_shown(wandb, tmp_path):
    mine, picture = book(tmp_path), np.zeros((4, 6, 3), np.uint8)
    mine.write(2, {"a": 0.5, "b": None, "c": [1, 2], "d": 3})
    mine.write_image(2, "queue", picture)
    mine.close()
    (start,) = wandb.started
    assert (start["project"], start["name"]) == ("digits", tmp_path.name)
    assert (start["dir"], start["config"]) == (str(tmp_path), CONFIG)
    assert wandb.logged[0] == (2, {"a": 0.5, "d": 3})
    step, shown = wandb.logged[1]
    assert step == 2 and shown["queue"] is picture
    assert wandb.ended == [0]
    assert wandb.options["console"] == "off" and wandb.options["silent"]


def test_a_resumed_run_goes_on_in_the_same_one(wandb, tmp_path, monkeypatch):
    for _ in range(2):
        book(tmp_path).close(failed=True)
    first, second = wandb.started
    assert first["id"] == second["id"] and first["resume"] == "allow"
    assert wandb.ended == [1, 1]
    saved = json.loads((tmp_path / workdir.WANDB_FILE).read_text())
    assert saved == {"project": "digits", "id": first["id"]}
    other = {**CONFIG, "log": {**CONFIG["log"], "wandb": "scans"}}
    logbook.Logbook(str(tmp_path), other, num_bytes=0).close()
    assert wandb.started[2]["id"] != first["id"]  # an id belongs to a project
    (tmp_path / "b").mkdir()
    book(tmp_path / "b").close()
    assert len({start["id"] for start in wandb.started}) == 3


@pytest.mark.parametrize("broken", ["init", "log"])
def test_what_fails_gives_one_warning(wandb, tmp_path, capsys, broken):
    wandb.broken = broken
    mine = book(tmp_path)
    for step in range(3):
        mine.write(step, {"a": 1.0})
    mine.close()
    assert capsys.readouterr().out == (
        "warning: nothing goes to Weights & Biases from here on: "
        f"{broken}: no connection\n"
    )
    assert len(runs.lines(tmp_path)) == 3


def test_a_call_that_hangs_holds_up_nothing(wandb, tmp_path, capsys, monkeypatch):
    """Neither a step nor, beyond PATIENCE, the end; nor do calls pile up."""
    monkeypatch.setattr(wandb_mirror, "PATIENCE", 0.1)
    monkeypatch.setattr(wandb_mirror, "MOST_WAITING", 5)
    wandb.hangs.clear()
    mine = book(tmp_path)
    for step in range(3):
        mine.write(step, {"a": 1.0})
    mine.close()
    assert "no answer in" in capsys.readouterr().out
    mine = book(tmp_path)
    for step in range(8):
        mine.write(step, {"a": 1.0})
    assert capsys.readouterr().out.count("5 calls wait for it") == 1
    wandb.hangs.set()
    mine.close()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("project", "words"),
    [("", "1 to 128"), ("x" * 129, "1 to")],  # see also support/key_requests.py
)
def test_names_that_are_none_are_refused(wandb, project, words):
    with pytest.raises(RequestError, match=words):
        wandb_mirror.check(project)
    wandb_mirror.check("digits")
    wandb_mirror.check(None)


def test_a_folder_of_its_name_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "wandb" / "x").mkdir(parents=True)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "meta_path", [importlib.machinery.PathFinder])
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(RequestError, match=r"rsmatch_jax\[wandb\]"):
        wandb_mirror.check("digits")


def test_without_the_package_the_request_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    argv = ["--config=digits", f"--workdir={tmp_path}/run", "--config.log.wandb=digits"]
    assert train.main(argv) == 2
    assert "log.wandb=digits: the package wandb is missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_is_shown_and_another_process_is_not(wandb, tmp_path, monkeypatch):
    """A whole run with a queue: figures of training and evaluation, and the picture."""
    keys = {**runs.ONE_NETWORK, "log.wandb": "digits"}
    result = runs.run(tmp_path / "run", **keys)
    shown = {(step, key): v for step, x in wandb.logged for key, v in x.items()}
    assert shown[4, "eval/test_accuracy"] == result["test_accuracy"]
    assert shown[3, "train/loss"] == runs.lines(tmp_path / "run")[1]["train/loss"]
    assert shown[4, "queue"].dtype == np.uint8
    assert wandb.started[0]["config"]["model"]["classifier"] == "tiny"
    assert wandb.ended == [0]
    monkeypatch.setattr(logbook.hosts, "is_primary", lambda: False)
    book(tmp_path).close()
    assert len(wandb.started) == 1


def test_the_package_itself_offline(tmp_path, monkeypatch):
    """Its file holds the numbers and the config; a resumed run has the same id."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for step in (2, 4):
        mine = book(tmp_path)
        mine.write(step, {"a_figure": 0.5})
        mine.write_image(step, "queue", np.zeros((4, 6, 3), np.uint8))
        mine.close()
    name = json.loads((tmp_path / workdir.WANDB_FILE).read_text())["id"]
    saved = sorted(tmp_path.glob(f"wandb/offline-run-*/run-{name}.wandb"))
    assert saved
    for path in saved:
        for word in (b"a_figure", b"num_steps", b"digits"):
            assert word in path.read_bytes(), path
    pictures = {p.name[:7] for p in tmp_path.rglob("media/images/*.png")}
    assert pictures == {"queue_2", "queue_4"}
