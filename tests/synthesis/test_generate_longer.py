"""A pool of a longer prompt file equals one that was drawn at once."""

import contextlib
import json
import os

import numpy as np
import pytest
from generate_helpers import (
    CLASSES,
    COUNT,
    draw,
    flags_of,
    install,
    tree,
    write_prompts,
)

from rsmatch_jax import files
from rsmatch_jax.synthesis.generate import __main__ as generate
from rsmatch_jax.synthesis.generate import batches, drawing

MORE = 23  # in batches of 5 the last batch of both files is short


@pytest.fixture
def drawn(monkeypatch):
    """Returns the drawn seeds. A picture depends on the size of its batch."""
    seeds = []

    def with_others(prompts, these):
        seeds.extend(these)
        return [
            p if isinstance(p, str) else p + np.uint8(len(prompts))
            for p in draw(prompts, these)
        ]

    install(monkeypatch)
    drawer = drawing.Drawer(with_others, 16, {"safety_checker": True}, {"numpy": "2"})
    monkeypatch.setattr(drawing, "load", lambda generator, device: drawer)
    return seeds


@pytest.fixture
def at_once(tmp_path, drawn):
    """Returns the pool of the longer file, with its staging."""
    folder = tmp_path / "at_once"
    folder.mkdir()
    flags = flags_of(folder)
    assert generate.main([*flags(), f"--prompts={longer(folder)}"]) == 0
    drawn.clear()
    return tree(folder / "pool")


def longer(folder, count=MORE):
    return write_prompts(folder / "longer.jsonl", count=count)


def seeds_of(numbers):
    return [generate.seed_of(0, "sd14", i) for i in numbers]


def test_as_if_drawn_at_once(tmp_path, drawn, at_once, capsys):
    flags = flags_of(tmp_path)
    assert generate.main(flags()) == 0
    drawn.clear()
    assert generate.main([*flags(), f"--prompts={longer(tmp_path)}"]) == 0
    # Only the short batch is drawn again, as a full one.
    assert drawn == seeds_of(range(10, MORE))
    assert tree(tmp_path / "pool") == at_once
    assert f"10 of {MORE} prompts are done already" in capsys.readouterr().out
    drawn.clear()
    assert generate.main([*flags(), f"--prompts={longer(tmp_path)}"]) == 0
    done = "is finished: 22 pictures of sd14, 1 dropped; nothing to do"
    assert done in capsys.readouterr().out
    assert generate.main(flags()) == 2
    assert f"prompts: {MORE} of digest" in capsys.readouterr().err
    assert drawn == []
    assert tree(tmp_path / "pool") == at_once


def test_beside_another_generator(tmp_path, drawn, at_once):
    flags = flags_of(tmp_path)
    for name in ("sd14", "glide"):
        assert generate.main(flags(name)) == 0
    before = tree(tmp_path / "pool/.staging/generators/glide")
    assert generate.main([*flags(), f"--prompts={longer(tmp_path)}"]) == 0
    assert tree(tmp_path / "pool/.staging/generators/glide") == before
    report = json.loads((tmp_path / "pool/pool.json").read_text())["generators"]
    counts = {name: part["prompts"]["count"] for name, part in report.items()}
    assert counts == {"sd14": MORE, "glide": COUNT}
    assert report["sd14"] == json.loads(at_once["pool.json"])["generators"]["sd14"]


@pytest.mark.parametrize("first", [3, 10, COUNT])
def test_whatever_was_there_before(tmp_path, drawn, at_once, first):
    """Less than a batch, full batches only, a short last batch."""
    flags = flags_of(tmp_path)
    shorter = write_prompts(tmp_path / "shorter.jsonl", count=first)
    for prompts in (shorter, longer(tmp_path, 16), longer(tmp_path)):
        assert generate.main([*flags(), f"--prompts={prompts}"]) == 0
    assert tree(tmp_path / "pool") == at_once


@pytest.mark.parametrize(("shorter", "new"), [(True, 3), (False, 5)])
def test_killed_at_every_write(tmp_path, drawn, at_once, monkeypatch, shorter, new):
    """A pool that is begun, and one that gets longer; new: batches to draw."""
    flags = flags_of(tmp_path)
    if shorter:
        assert generate.main(flags()) == 0
    command = [*flags(), f"--prompts={longer(tmp_path)}"]
    begun = tree(tmp_path / "pool")
    real, calls = files.write_bytes, []

    class Killed(BaseException):
        pass

    def until(limit):
        def call(path, *args, **kwargs):
            calls.append(path)
            if len(calls) == limit:
                raise Killed
            real(path, *args, **kwargs)

        return call

    for limit in range(1, 100):
        restore(tmp_path / "pool", begun)
        calls.clear()
        ended = False
        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            patched.setattr(files, "write_bytes", until(limit))
            ended = generate.main(command) == 0
        if limit % 2 == 0 and not ended:  # sometimes killed twice
            with monkeypatch.context() as patched:
                patched.setattr(batches.Part, "stage", interrupt)
                # Beyond the header and the batches nothing is left to stage.
                assert generate.main(command) == (75 if limit <= 1 + new else 0)
        assert generate.main(command) == 0
        assert tree(tmp_path / "pool") == at_once, limit
        if ended:
            break
    assert limit > 2 + new  # header, batches, the mark of the written pool


def interrupt(*args):
    raise KeyboardInterrupt


def restore(folder, content):
    for name in tree(folder):
        os.remove(folder / name)
    for name, data in content.items():
        os.makedirs((folder / name).parent, exist_ok=True)
        (folder / name).write_bytes(data)


def test_other_prompts_are_refused(tmp_path, drawn, capsys):
    flags = flags_of(tmp_path)
    assert generate.main(flags()) == 0
    drawn.clear()
    before = tree(tmp_path / "pool")
    path = longer(tmp_path)
    with open(path) as f:
        lines = f.readlines()
    other_text, other_label, swapped = list(lines), list(lines), list(lines)
    other_text[COUNT] = other_text[COUNT].replace("a 11", "an 11")
    other_label[COUNT] = other_label[COUNT].replace('"label": 2', '"label": 1')
    swapped[1], swapped[2] = lines[2], lines[1]
    for changed in (other_text, other_label, swapped):
        assert changed != lines
        with open(path, "w") as f:
            f.writelines(changed)
        assert generate.main([*flags(), f"--prompts={path}"]) == 2
        printed = capsys.readouterr().err
        assert f"prompts: {COUNT} of digest" in printed
        assert "--name" in printed
    for dataset, classes, named in (
        ("cars", CLASSES, "the prompts are for cars"),
        ("pets", ("cat", "dog", "hen"), "label 2 is owl there, hen here"),
    ):
        other = write_prompts(tmp_path / "other.jsonl", dataset, classes, MORE)
        for generator in ("sd14", "glide"):
            assert generate.main([*flags(generator), f"--prompts={other}"]) == 2
            printed = capsys.readouterr().err
            assert "is a pool for pets" in printed and named in printed
    assert generate.main([*flags(), f"--prompts={longer(tmp_path)}", "--seed=1"]) == 2
    assert "seed: 0 there, 1 here" in capsys.readouterr().err
    assert drawn == []
    assert tree(tmp_path / "pool") == before
