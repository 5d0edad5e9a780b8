"""Runs the generate command with a model of numpy instead of all others."""

import os

import numpy as np

from rsmatch_jax.data import sources
from rsmatch_jax.synthesis.generate import drawing, pipelines
from rsmatch_jax.synthesis.prompts import prompt_file
from rsmatch_jax.synthesis.prompts.prompt_file import Prompt

CLASSES = ("cat", "dog", "owl")
COUNT = 12
# Prompts: one is dropped, two look like prompt 0, one of these in another class.
FLAGGED, TWIN, OTHER = 5, 9, 4


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


def install(monkeypatch):
    """Installs the model; returns the list to which it adds drawn seeds."""
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
    text = {FLAGGED: "flagged", TWIN: "twin", OTHER: "twin", 0: "twin"}
    prompts = [
        Prompt(i % len(classes), f"{text.get(i, 'a')} {i}") for i in range(count)
    ]
    path.write_text(prompt_file.text(dataset, classes, {"seed": 3}, prompts))
    return str(path)


def flags_of(folder):
    """Returns flags(generator, *more) of a run that fills folder/pool."""
    prompts = write_prompts(folder / "prompts.jsonl")

    def flags(generator="sd14", *more):
        return [
            f"--prompts={prompts}",
            f"--generator={generator}",
            f"--out={folder}/pool",
            "--size=8",
            "--batch_size=5",
            *more,
        ]

    return flags


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
