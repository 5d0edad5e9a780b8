"""Which file --config names, and what `configs` means while it is loaded."""

import sys
import types

import pytest

from rsmatch_jax.engine import config_file
from rsmatch_jax.errors import RequestError

MINE = """
from __future__ import annotations
import dataclasses
from configs import common

@dataclasses.dataclass  # looks for this module in sys.modules
class Sizes:
    steps: int

def get_config():
    from configs import digits  # also when the function is called
    c = digits.get_config()
    c.seed = 7
    assert set(c) == set(common.get_config())
    return c
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory; without other tests' `configs` in sys.modules."""
    monkeypatch.chdir(tmp_path)
    before = config_file._take_configs()
    yield tmp_path
    config_file._take_configs()
    sys.modules.update(before)


def test_a_bare_name_is_a_packaged_config_and_a_path_is_that_file(folder):
    (folder / "digits").mkdir()
    (folder / "digits.py").write_text(MINE)
    assert config_file.find("digits") == f"{config_file.CONFIGS}/digits.py"
    assert "cifar10" in config_file.ready()
    assert not {"ablations", "studies", "__pycache__"} & set(config_file.ready())
    config, name, _ = config_file.parse(["", "--config=digits"], lambda values: None)
    assert (config.seed, config.data.name, name) == (0, "digits", "digits")
    argv = ["", "--config", "digits.py", "--config.model.dtype=bfloat16"]
    config, name, _ = config_file.parse(argv, lambda values: None)
    assert (config.seed, config.model.dtype, name) == (7, "bfloat16", "digits")


def test_an_unknown_name_suggests_the_nearest(folder):
    with pytest.raises(RequestError, match="--config=digit:.*did you mean 'digits'"):
        config_file.find("digit")
    with pytest.raises(RequestError, match="no such file.*cifar100"):
        config_file.find("configs/mine.py")


@pytest.mark.parametrize("imported", [False, True])
def test_other_configs_do_not_hide_the_packaged_ones(folder, monkeypatch, imported):
    """They may lie in the working directory, on sys.path and in sys.modules."""
    (folder / "configs").mkdir()
    (folder / "configs" / "__init__.py").write_text("")
    (folder / "configs" / "common.py").write_text("mine = True\n")
    (folder / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(folder))
    if imported:
        import configs.common as theirs
    assert config_file.load("mine.py").seed == 7
    assert ("configs" in sys.modules) == imported
    assert not imported or sys.modules["configs.common"] is theirs


def test_a_user_package_named_configs_still_works(folder, monkeypatch):
    """A config file may import from its folder and from a folder on sys.path."""
    for place in ("project/configs", "elsewhere/configs"):
        (folder / place).mkdir(parents=True)
    (folder / "project/configs/near.py").write_text("value = 3\n")
    (folder / "elsewhere/configs/far.py").write_text("value = 4\n")
    monkeypatch.syspath_prepend(str(folder / "elsewhere"))
    path = folder / "project/configs/mine.py"
    text = MINE.replace("import common", "import common, far, near")
    path.write_text(text.replace("c.seed = 7", "c.seed = near.value + far.value"))
    assert config_file.load(str(path)).seed == 7


def test_a_file_that_fails_leaves_no_trace(folder, monkeypatch):
    theirs = types.ModuleType("configs")
    monkeypatch.setitem(sys.modules, "configs", theirs)
    (folder / "bad.py").write_text("from configs import nothing\n")
    with pytest.raises(RequestError, match="bad.py cannot be loaded.*nothing"):
        config_file.load("bad.py")
    assert sys.modules["configs"] is theirs


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("c.train.num_step = 3", "no key 'num_step' in train.*mean 'num_steps'"),
        ("c.method.rsmatch.queue_lenght = 3", "no key 'queue_lenght' in method.rsmat"),
        ("c.method.mine = {'a': 1}", "no key 'mine' in method"),
        ("c.train.num_steps = None", "train.num_steps=None: it needs a value.*1048576"),
        ("c.method.threshold = None", "method.threshold=None.*0.95"),
        ("del c.optim.momentum", "it lacks optim.momentum; begin with common.get_con"),
    ],
)
def test_a_file_has_the_keys_of_common(folder, lines, words):
    text = f"    c = common.get_config()\n    {lines}\n    return c\n"
    text = f"from configs import common\ndef get_config():\n{text}"
    (folder / "mine.py").write_text(text)
    with pytest.raises(RequestError, match=f"mine.py cannot be loaded: .*{words}"):
        config_file.load("mine.py")


def test_none_on_a_command_line():
    """A key that may be None takes it, in any config; another key does not."""
    for name, key in (
        ("cifar10", "data.labels_per_class"),
        ("imagenet", "data.image_size"),
        ("own", "data.labels_per_class"),
    ):
        argv = ["", f"--config={name}", f"--config.{key}=None"]
        config, _, _ = config_file.parse(argv, lambda values: None)
        group, last = key.split(".")
        assert config[group][last] is None
    with pytest.raises(RequestError, match="train.batch_size=None"):
        config_file.parse(
            ["", "--config=cifar10", "--config.train.batch_size=None"],
            lambda values: None,
        )
