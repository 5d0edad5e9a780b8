"""The command line: a wrong request gets an answer and writes nothing."""

import pathlib
import subprocess
import sys

import pytest
from support import fresh_process, key_requests
from support.helpers import config

from rsmatch_jax import train
from rsmatch_jax.engine import checks, config_file
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods.catalogue import METHODS

ROOT = pathlib.Path(__file__).parent.parent
DIGITS = "--config=configs/digits.py"

FLAGS = [  # the command line, and words of the answer
    ("", "--config=FILE is missing"),
    (f"{DIGITS} more", "'more'"),
    (
        "--config=cifar10 --config.data.download=False --config.data.data_dir=/nope",
        "data.data_dir=/nope | no such folder",
    ),
    (
        f"{DIGITS} --config.method.name=freematch "
        "--noconfig.method.flexmatch.threshold_warmup",
        "flexmatch.threshold_warmup=False | method.name=freematch ignores | "
        "method.rsmatch.pseudo_label=flexmatch",
    ),
]
KEYS = [
    (" ".join([DIGITS, *(f"--config.{key}" for key in keys.split())]), words)
    for keys, words in key_requests.CASES
]


@pytest.mark.parametrize(("line", "words"), FLAGS + KEYS, ids=lambda x: x[-60:])
def test_wrong_request_is_answered(line, words, tmp_path, capsys, monkeypatch):
    """Exit code 2, key and value named, no traceback, nothing written."""
    # Without data that this machine has decoded before.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    assert train.main([*line.split(), f"--workdir={folder}"]) == 2
    # On a slow machine lines of progress come first.
    message = "\n" + capsys.readouterr().err
    assert message.count("\nerror: ") == 1
    assert "Traceback" not in message
    for word in words.split(" | "):
        assert word in message
    assert not folder.exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["name=freematch", "freematch.ema_decay=0.9"],
        ["freematch.ema_decay=0.9", "rsmatch.pseudo_label=freematch"],
        ["rsmatch.pseudo_label=flexmatch", "flexmatch.threshold_warmup=False"],
        ["name=simmatch", "simmatch.epass=True", "threshold=0.9", "unsup_weight=2"],
        ["rsmatch.routing=oracle", "unsup_weight=2"],
        *(
            [f"rsmatch.routing={how}", "rsmatch.route_warmup_steps=3"]
            for how in ("oracle", "random", "entropy", "statistics")
        ),
        ["rsmatch.detector_loss=queue+nnpu", "rsmatch.synthetic_prior=0.3"],
        ["name=supervised", "threshold=0.9"],
    ],
    ids=lambda x: x[0],
)
def test_keys_of_the_chosen_method_are_taken(argv):
    argv = ["launch.py", DIGITS, *(f"--config.method.{key}" for key in argv)]
    config, stem, _ = config_file.parse(argv, train.define_flags)
    checks.check(config, num_devices=1)
    assert stem == "digits"


def test_file_loaded_before_leaves_nothing_behind():
    config_file.parse(["launch.py", DIGITS], train.define_flags)
    with pytest.raises(RequestError, match=r"launch\.py cannot be loaded.*get_config"):
        config_file.parse(["launch.py", "--config=launch.py"], train.define_flags)


def test_file_may_hold_values_of_every_method():
    """Only keys on the command line are checked; each block has a method."""
    c = config(**{"method.simmatch.temperature": 0.2, "method.freematch.ema_decay": 0})
    checks.check_overrides(c, ["seed", "method.name", "method.threshold"])
    blocks = {key for key, value in c.method.items() if hasattr(value, "items")}
    assert blocks <= set(METHODS)
    for name in METHODS:
        for block in blocks - {name}:
            key = f"method.{block}.{next(iter(c.method[block]))}"
            with pytest.raises(RequestError, match=f"method.name={name}.* ignores"):
                checks.check_overrides(config(**{"method.name": name}), [key])


@pytest.mark.parametrize("program", [["launch.py"], ["-m", "rsmatch_jax.train"]])
def test_help_of_both_programs(program):
    done = subprocess.run(
        [sys.executable, *program, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Exit codes" in done.stdout


def test_parent_of_a_process_stays_without_jax():
    """It imports `train`, and waits for the process that trains."""
    program = "import sys; from rsmatch_jax import train; print('jax' in sys.modules)"
    assert fresh_process.run(program) == "False\n"
