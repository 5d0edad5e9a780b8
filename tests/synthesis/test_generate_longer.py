"""A pool of a longer prompt file equals one that was drawn at once."""

import json
import shutil

import generate_helpers
import numpy as np
import pytest
from generate_helpers import CLASSES, COUNT, draw, failing_at, tree, write_prompts

from rsmatch_jax import files
from rsmatch_jax.synthesis.generate import __main__ as generate
from rsmatch_jax.synthesis.generate import batches

MORE = 23  # in batches of 5 the last batch of both files is short


@pytest.fixture
def drawn(monkeypatch):
    """Returns the drawn seeds. A picture depends on the size of its batch."""

    def with_others(prompts, seeds):
        return [
            p if isinstance(p, str) else p + np.uint8(len(prompts))
            for p in draw(prompts, seeds)
        ]

    return generate_helpers.install(monkeypatch, with_others)


@pytest.fixture
def longer(tmp_path):
    return write_prompts(tmp_path / "longer.jsonl", count=MORE)


@pytest.fixture
def at_once(tmp_path, capsys, drawn, longer):
    """Returns the pool of the longer file, with its staging."""
    folder, flags = tmp_path / "at_once", ("--size=8", "--batch_size=5")
    generate_helpers.runner(folder, capsys, *flags)("sd14", longer)
    drawn.clear()
    return tree(folder / "pool")


def test_as_if_drawn_at_once(tmp_path, drawn, at_once, longer, run):
    run()
    drawn.clear()
    assert f"10 of {MORE} prompts are done already" in run("sd14", longer)
    # Only the short batch is drawn again, as a full one.
    assert drawn == [generate.seed_of(0, "sd14", i) for i in range(10, MORE)]
    assert tree(tmp_path / "pool") == at_once
    drawn.clear()
    done = "is finished: 22 pictures of sd14, 1 dropped; nothing to do"
    assert done in run("sd14", longer)
    assert f"prompts: {MORE} of digest" in run(code=2)
    assert drawn == []
    assert tree(tmp_path / "pool") == at_once


def test_beside_another_generator(tmp_path, drawn, at_once, longer, run):
    for name in ("sd14", "glide"):
        run(name)
    before = tree(tmp_path / "pool/.staging/generators/glide")
    run("sd14", longer)
    assert tree(tmp_path / "pool/.staging/generators/glide") == before
    report = json.loads((tmp_path / "pool/pool.json").read_text())["generators"]
    counts = {name: part["prompts"]["count"] for name, part in report.items()}
    assert counts == {"sd14": MORE, "glide": COUNT}
    assert report["sd14"] == json.loads(at_once["pool.json"])["generators"]["sd14"]


@pytest.mark.parametrize("first", [3, 10, COUNT])
def test_whatever_was_there_before(tmp_path, drawn, at_once, longer, run, first):
    """Less than a batch, full batches only, a short last batch."""
    for count in (first, 16):
        run("sd14", write_prompts(tmp_path / "shorter.jsonl", count=count))
    run("sd14", longer)
    assert tree(tmp_path / "pool") == at_once


@pytest.mark.parametrize(("shorter", "new"), [(True, 3), (False, 5)])
def test_killed_at_every_write(
    tmp_path, drawn, at_once, longer, run, monkeypatch, shorter, new
):
    """A pool that is begun, and one that gets longer; new: batches to draw."""
    pool, begun = tmp_path / "pool", tmp_path / "begun"
    begun.mkdir()
    if shorter:
        run()
        shutil.copytree(pool, begun, dirs_exist_ok=True)
    for limit in range(1, 100):
        shutil.rmtree(pool, ignore_errors=True)
        shutil.copytree(begun, pool)
        ended = False
        with failing_at(monkeypatch, limit, files, "write_bytes"):
            run("sd14", longer)
            ended = True
        if limit % 2 == 0 and not ended:  # sometimes killed twice
            with failing_at(
                monkeypatch, 1, batches.Part, "stage", error=KeyboardInterrupt
            ):
                # Beyond the header and the batches nothing is left to stage.
                run("sd14", longer, code=75 if limit <= 1 + new else 0)
        run("sd14", longer)
        assert tree(pool) == at_once, limit
        if ended:
            break
    assert limit > 2 + new  # header, batches, the mark of the written pool


def test_other_prompts_are_refused(tmp_path, drawn, longer, run):
    run()
    drawn.clear()
    path = tmp_path / "longer.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    other_text, other_label, swapped = list(lines), list(lines), list(lines)
    other_text[COUNT] = other_text[COUNT].replace("a 11", "an 11")
    other_label[COUNT] = other_label[COUNT].replace('"label": 2', '"label": 1')
    swapped[1], swapped[2] = lines[2], lines[1]
    for changed in (other_text, other_label, swapped):
        assert changed != lines
        path.write_text("".join(changed))
        printed = run("sd14", longer, code=2)
        assert f"prompts: {COUNT} of digest" in printed
        assert "--name" in printed
    path.write_text("".join(lines))
    assert "seed: 0 there, 1 here" in run("sd14", longer, "--seed=1", code=2)
    for dataset, classes, named in (
        ("cars", CLASSES, "the prompts are for cars"),
        ("pets", ("cat", "dog", "hen"), "label 2 is owl there, hen here"),
    ):
        other = write_prompts(tmp_path / "other.jsonl", dataset, classes)
        for generator in ("sd14", "glide"):
            assert named in run(generator, other, code=2)
    assert drawn == []
