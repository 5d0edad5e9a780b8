"""Checks command lines without running them: programs, flags, keys, values, files."""

import contextlib
import importlib
import io
import pathlib
import re
import shlex
import tomllib
from unittest import mock

from rsmatch_jax import cli, terminal, train
from rsmatch_jax.bench import __main__ as bench
from rsmatch_jax.engine import checks, config_file

ROOT = pathlib.Path(__file__).parents[2]
OPERATORS = {";", "&", "&&", "||", "|", "(", ")"}
# Programs of others, whose flags are not checked.
FOREIGN = {"source", "uv venv", "python -m venv", "pip-audit"}
# They start what follows their flags.
LAUNCHERS = {"srun", "mpirun"}
OURS = {"rsmatch", "python"}


class Parsed(BaseException):
    """The flags were read; raised before a command does anything."""


def check(text: str):
    """Raises AssertionError for a command of a shell text that would not start."""
    for words in commands(text):
        problem = _problem(words)
        assert not problem, f"{shlex.join(words)}: {problem}"


def commands(text: str) -> list[list[str]]:
    """Returns the simple commands of a shell text, as words, those in --wrap too."""
    text = re.sub(r"\$\w+", "0", text.replace("\\\n", " "))
    result = []
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>()")
        lexer.whitespace_split = True
        words = []
        for word in [*lexer, ";"]:
            if word not in OPERATORS:
                words.append(word)
                continue
            result += _simple(words)
            words = []
    return result


def _simple(words):
    """Yields what words between two operators run, without the shell's parts."""
    while words and (words[0] in {"do", "done"} or re.match(r"\w+=", words[0])):
        words = words[1:]
    if ">" in words:  # and a file
        at = words.index(">")
        words = words[:at] + words[at + 2 :]
    if not words or words[0] == "for":
        return
    if words[0] in LAUNCHERS:
        at = next(i for i, word in enumerate(words) if word in OURS)
        words = words[at:]
    if words[0] == "sbatch":
        for word in words:
            if word.startswith("--wrap="):
                yield from commands(word.removeprefix("--wrap="))
        return
    yield words


def _problem(words):
    """Returns what is wrong with a command, "" if nothing is."""
    program, *rest = words
    program = pathlib.PurePath(program).name.replace("python3", "python")
    if program == "uv" and rest[0] == "pip":
        program, rest = "pip", rest[1:]
    if program == "rsmatch":
        return _of_command(rest)
    if program == "pip":
        return _of_pip(rest)
    if program == "make":
        targets = re.search(r"\.PHONY: (.*?)\n\n", _read("Makefile"), re.S)[1].split()
        return "".join(f"no target {t}" for t in rest if t not in targets)
    if program == "python" and rest[:2] == ["-m", "pytest"]:
        missing = (f for f in rest[2:] if not (ROOT / f.split("::")[0]).exists())
        return "".join(f"no file {f}" for f in missing)
    if program == "python" and rest[:1] == ["-m"]:
        module = rest[1].removeprefix("rsmatch_jax.")
        for command, (place, _) in cli.COMMANDS.items():
            if place.removesuffix(".__main__") == module:
                return _of_command([command, *rest[2:]])
    if program == "python" and rest[:1] == ["launch.py"]:
        return _of_command(["train", *rest[1:]])
    called = " ".join([program, *rest])
    if any(called.split()[: len(f.split())] == f.split() for f in FOREIGN):
        return ""
    return "tests/support/command_lines.py does not know this program"


def _of_pip(words):
    """Files and extras of this project exist; other packages may be anything."""
    extras = tomllib.loads(_read("pyproject.toml"))["tool"]["hatch"]["metadata"][
        "hooks"
    ]["requirements_txt"]["optional-dependencies"]
    for flag, word in zip(["", *words], words, strict=False):
        if flag == "-r" and not (ROOT / word).is_file():
            return f"no file {word}"
        match = re.fullmatch(r"(?:\.|rsmatch_jax)\[(.*)\]", word)
        if match and match[1] not in extras:
            return f"no extra {match[1]}"
    return "" if words[0] == "install" else f"pip {words[0]}"


def _of_command(words):
    """Reads the flags of `rsmatch` as the command itself does."""
    if not words:
        return ""
    name, *argv = words
    if name not in cli.COMMANDS:
        return f"there is no command {name}"
    if name == "train":
        return _of_training(argv)
    if name == "sweep":  # printing the launch lines is quick
        argv = [*argv, "--dry_run"]
    if name == "bench" and (not argv or argv[0] not in bench.BENCHES):
        return "there is no such bench"
    module = importlib.import_module(f"rsmatch_jax.{cli.COMMANDS[name][0]}")
    out, err = io.StringIO(), io.StringIO()
    with _stopped_after_parsing(), contextlib.redirect_stdout(out):
        try:
            with contextlib.redirect_stderr(err):
                code = module.main(argv)
        except Parsed:
            return ""
    if name == "sweep" and code == 0 and "launch.py" in out.getvalue():
        return ""
    return err.getvalue() or "the command did not read its flags"


def _of_training(argv):
    argv = ["rsmatch train", *argv]
    try:
        config, _, _ = config_file.parse(argv, train.define_flags)
        checks.check_overrides(config, config_file.override_keys(argv))
        checks.check(config, 1)
    except ValueError as e:
        return str(e)
    return ""


@contextlib.contextmanager
def _stopped_after_parsing():
    """Within, a command ends by Parsed as soon as its flags are read."""

    def stopped(function):
        def read(*args, **kwargs):
            function(*args, **kwargs)
            raise Parsed

        return read

    readers = [
        (terminal.Parser, "parse_args"),
        (terminal.Parser, "parse_intermixed_args"),
        (config_file, "parse"),
    ]
    with contextlib.ExitStack() as stack:
        for place, name in readers:
            read = stopped(getattr(place, name))
            stack.enter_context(mock.patch.object(place, name, read))
        yield


def _read(file):
    return (ROOT / file).read_text()
