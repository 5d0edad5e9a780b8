"""The command rsmatch: its list, its doors, and that it answers at once."""

import sys
import types

import pytest
from support import fresh_process, processes

from rsmatch_jax import cli, terminal, train
from rsmatch_jax.engine import config_file
from rsmatch_jax.version import __version__

NAMES = (
    *(
        "train",
        "evaluate",
        "predict",
        "sift",
        "export",
        "sweep",
        "report",
        "import",
        "look",
    ),
    *("prompts", "generate", "ddpm", "see", "tsne", "bench"),
)


def test_all_commands_are_listed(capsys):
    assert tuple(cli.COMMANDS) == NAMES
    for argv in ([], ["--help"], ["-h"]):
        assert cli.main(argv) == 0
        lines = capsys.readouterr().out.splitlines()
        for name in NAMES:
            assert sum(line.startswith(f"  {name} ") for line in lines) == 1
    assert cli.main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_words_reach_the_command(monkeypatch):
    calls = []
    module = types.SimpleNamespace(main=lambda argv: calls.append(argv) or 75)
    monkeypatch.setitem(sys.modules, "rsmatch_jax.evaluate", module)
    assert cli.main(["evaluate", "--workdir=a b", "--step", "3"]) == 75
    assert calls == [["--workdir=a b", "--step", "3"]]


@pytest.mark.parametrize(
    ("word", "near"),
    [("trian", "'train'"), ("reprot", "'report'"), ("promt", "'prompts'")],
)
def test_an_unknown_command_suggests_the_nearest(capsys, word, near):
    assert cli.main([word]) == 2
    assert f"did you mean {near}?" in capsys.readouterr().err
    assert cli.main(["--config=digits"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_ctrl_c_while_a_command_is_loaded_shows_no_traceback(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.importlib, "import_module", interrupted)
    assert cli.main(["evaluate"]) == 1
    printed = capsys.readouterr().err
    assert printed == "\ninterrupted; nothing was begun; the same command starts over\n"


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_change_no_exit_code(streams):
    program = f"{sys.executable} -m rsmatch_jax"
    for words, code in {"": 0, "trian": 2, "sweep": 0, "sweep --seeds": 2}.items():
        done = processes.shell(f"{program} {words} {streams}")
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), words


@pytest.mark.parametrize("words", ["sweep", "sweep digits --dry_run --out={out}"])
def test_a_result_that_cannot_be_written_is_a_failure(words, tmp_path, capsys):
    argv = words.format(out=tmp_path / "new").split()
    with processes.full_stdout():
        assert cli.main(argv) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_a_value_may_begin_with_the_home_folder(monkeypatch):
    """No shell expands ~ after an equals sign."""
    monkeypatch.setenv("HOME", "/home/me")
    parser = terminal.Parser("evaluate", None)
    parser.add_argument("--workdir")
    assert parser.parse_args(["--workdir=~/run"]).workdir == "/home/me/run"
    argv = ["", "--config=digits", "--workdir=~/run", "--config.data.data_dir=~"]
    config, _, values = config_file.parse(argv, train.define_flags)
    assert values.workdir == "/home/me/run" and config.data.data_dir == "/home/me"


def test_nothing_is_imported_before_a_command_is_called():
    program = (
        "import sys; from rsmatch_jax import cli; cli.main([]);"
        "print(sorted(n for n in sys.modules if n.split('.')[0] in"
        " ('jax', 'numpy', 'absl', 'ml_collections', 'tensorflow')))"
    )
    assert fresh_process.run(program).splitlines()[-1] == "[]"
