"""Runs the generate command with a model of numpy instead of all others."""

import contextlib
import os

import numpy as np

from rsmatch_jax.data import sources
from rsmatch_jax.synthesis.generate import __main__ as generate
from rsmatch_jax.synthesis.generate import drawing, pipelines
from rsmatch_jax.synthesis.prompts import prompt_file
from rsmatch_jax.synthesis.prompts.prompt_file import Prompt

CLASSES = ("cat", "dog", "owl")
COUNT = 12
# Prompts: one is dropped, two look like prompt 0, one of these in another class.
FLAGGED, TWIN, OTHER = 5, 9, 4


def text_of(number):
    words = {FLAGGED: "flagged", TWIN: "twin", OTHER: "twin", 0: "twin"}
    return f"{words.get(number, 'a')} {number}"


def draw(prompts, seeds):
    """Draws noise by seed; the flagged prompt has no picture, twins have equal ones."""
    assert len(prompts) == len(seeds)
    return [
        drawing.SAFETY
        if text.startswith("flagged")
        else np.random.default_rng(0 if text.startswith("twin") else seed).integers(
            0, 256, (16, 16, 3), dtype=np.uint8
        )
        for text, seed in zip(prompts, seeds, strict=True)
    ]


def install(monkeypatch, draw=draw):
    """Replaces the command's model; returns the list to which it adds drawn seeds."""
    drawn = []

    def logged(prompts, seeds):
        drawn.extend(seeds)
        return draw(prompts, seeds)

    drawer = drawing.Drawer(logged, 16, {"safety_checker": True}, {"numpy": "2"})
    monkeypatch.setattr(pipelines, "require", lambda generator: None)
    monkeypatch.setattr(drawing, "choose_device", lambda device: device or "cpu")
    monkeypatch.setattr(drawing, "load", lambda generator, device: drawer)
    return drawn


def write_prompts(path, dataset="pets", classes=CLASSES, count=COUNT):
    """Returns the flag of the written file."""
    prompts = [Prompt(i % len(classes), text_of(i)) for i in range(count)]
    path.write_text(prompt_file.text(dataset, classes, {"seed": 3}, prompts))
    return f"--prompts={path}"


def runner(folder, capsys, *common):
    """Returns run(generator, *flags, code=0), which fills folder/pool.

    It checks the exit code, and that a refused request (code 2) changes no file but the
    lock. It returns what was printed, with another code than 0 the errors.
    """
    folder.mkdir(exist_ok=True)
    prompts = write_prompts(folder / "prompts.jsonl")

    def contents():
        return {path: text for path, text in tree(folder / "pool").items() if text}

    def run(generator="sd14", *flags, code=0):
        argv = [prompts, f"--generator={generator}", f"--out={folder}/pool", *common]
        before = contents()
        capsys.readouterr()
        exit_code = generate.main([*argv, *flags])
        printed = capsys.readouterr()
        assert exit_code == code, printed.err
        assert "Traceback" not in printed.err
        assert code != 2 or contents() == before
        return printed.err if code else printed.out

    return run


class Killed(BaseException):
    """Passes by every handler of the command, as a kill does."""


@contextlib.contextmanager
def failing_at(monkeypatch, limit, owner, *names, error=Killed, counts=lambda *_: True):
    """Raises `error` at call `limit` of the owner's functions and at all later ones;
    yields the list of the counted calls."""
    calls = []

    def counting(real):
        def call(*args, **kwargs):
            if counts(*args):
                calls.append(args)
            if len(calls) >= limit:
                raise error
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        for name in names:
            patched.setattr(owner, name, counting(getattr(owner, name)))
        yield calls


def tree(folder, without=()):
    """Returns {path below folder: content}."""
    contents = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if f not in without]
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as f:
                contents[os.path.relpath(path, folder)] = f.read()
    return contents


def load(folder, tmp_path):
    return sources.load_pool(str(folder), cache_dir=str(tmp_path / "cache"))
