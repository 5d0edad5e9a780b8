"""Every block of code in README and docs runs, or its flags and keys are checked."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support import command_lines, photos
from support.pages import PAGES, ROOT, blocks, name

SHELL = ("sh", "console")
LANGUAGES = (*SHELL, "python", "bibtex", "text")
REASONS = ("long", "gpu", "machines", "download", "install")
SHORT = " ".join(
    f"--config.{key}"
    for key in (
        "train.num_steps=2",
        "train.batch_size=8",
        "train.unlabeled_ratio=2",
        "model.classifier=wrn_10_1",
        "eval.every_steps=2",
        "checkpoint.every_steps=2",
        "log.every_steps=1",
        "log.tensorboard=False",
    )
)
RSMATCH = """#!/bin/sh
if [ "$1" = train ]; then set -- "$@" $ADDED_TO_TRAINING; fi
exec {python} -m rsmatch_jax "$@"
"""
BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = [
    page
    for page in PAGES
    if any(block.mark in ("run", "short") for block in blocks(page))
]


def run(place, *command, **environ):
    """Runs a command in a scratch folder."""
    done = subprocess.run(
        command,
        cwd=place,
        env={
            "PATH": f"{place}/bin:/usr/bin:/bin",
            "HOME": str(place),
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
            **environ,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """What the pages say a reader has: pictures and the demo's run."""
    place = tmp_path_factory.mktemp("docs")
    (place / "bin").mkdir()
    (place / "bin/rsmatch").write_text(RSMATCH.format(python=sys.executable))
    (place / "bin/rsmatch").chmod(0o755)
    (place / "bin/python").symlink_to(sys.executable)
    photos.make(place / "photos")
    (place / "new").mkdir()
    files = {"scan.png": (8, 8), "photo.jpg": (40, 60, 3), "new/cat.jpg": (32, 32, 3)}
    files["new/cat.png"] = (32, 32, 3)
    for file, shape in files.items():
        pixels = np.random.default_rng(len(shape)).integers(0, 256, shape, np.uint8)
        Image.fromarray(pixels).save(place / file)
    demo = ["rsmatch", "train", "--config=digits", "--workdir=runs/demo"]
    run(place, *demo, ADDED_TO_TRAINING=SHORT)
    return place


@pytest.mark.parametrize("page", RUN, ids=name)
def test_blocks_run(page, prepared, tmp_path):
    place = shutil.copytree(prepared, tmp_path / "place", symlinks=True)
    for block in blocks(page):
        how, _, rest = block.mark.partition(" ")
        try:
            if how == "file":
                (place / rest).write_text(block.text)
            elif how in ("run", "short") and block.language == "python":
                run(place, sys.executable, "-c", block.text)
            elif how in ("run", "short"):
                script = f"set -euo pipefail\n{block.shell}"
                added = SHORT if how == "short" else ""
                run(place, "bash", "-c", script, ADDED_TO_TRAINING=added)
        except AssertionError as e:
            raise AssertionError(f"{block}: {e}") from None


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_has_a_test(block):
    """By its language and the comment above it."""
    assert block.language in LANGUAGES, f"{block}: choose one of {LANGUAGES}"
    if block.language in ("bibtex", "text"):
        programs = ("rsmatch ", "python ", "make ", "pip ", "$ ")
        assert not any(line.startswith(programs) for line in block.text.splitlines())
        return
    how, _, rest = block.mark.partition(" ")
    how = how.removesuffix(",")
    if how == "by":
        assert block.page.name in (ROOT / rest).read_text(), f"{block}: {rest}"
    elif how == "flags":
        assert rest in REASONS and block.language in SHELL, f"{block}: {REASONS}"
    elif how == "file":
        assert rest, block
    else:
        assert block.mark in ("run", "short"), f"{block}: {block.mark!r}"
    if block.language in SHELL and how != "by":
        written = [b.mark for b in blocks(block.page) if b.mark.startswith("file ")]
        text = block.shell
        for mark in written:  # a config that is there once the page's blocks run
            text = text.replace(f"={mark.removeprefix('file ')}", "=digits")
        command_lines.check(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rsmatch trian", "no command trian"),
        ("rsmatch train --config=digits --config.method.nme=x", "did you mean 'name'"),
        ("rsmatch train --config=digits --config.method.threshold=2", "threshold=2"),
        ("rsmatch predict --workdr=runs/demo x.png", "--workdr"),
        ("rsmatch sweep tabel1", "tabel1"),
        ("rsmatch bench compiled --targt=h100", "targt"),
        ("make tests", "no target tests"),
        ("pip install -r requirements-none.txt", "no file"),
        ("pip install -e '.[cuda99]'", "no extra cuda99"),
        ("srun -n 2 rsmatch train --config=digit", "did you mean 'digits'"),
        ("sbatch --wrap='rsmatch sweep table1 --shards=0/2'", "shards"),
        ("curl example.org", "does not know"),
    ],
)
def test_wrong_commands_are_noticed(text, words):
    with pytest.raises(AssertionError, match=words):
        command_lines.check(text)


def test_the_charts_and_tables_show_the_committed_figures():
    """If not, run `python docs/charts.py` (and with --tables for study.md)."""
    program = """
import charts
for name, chart in charts.charts().items():
    assert (charts.DOCS / "pictures" / name).read_text() == chart, name
for table in charts.tables().split("\\n\\n"):
    assert table.strip() in (charts.DOCS / "study.md").read_text(), table
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "docs")}
    subprocess.run([sys.executable, "-c", program], env=environ, check=True)
