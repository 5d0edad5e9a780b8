"""The package from Python, and the examples of docs/using-a-model.md verbatim."""

import ast
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image
from support import workdirs
from support.helpers import BLOCKS
from support.pages import ROOT, blocks

import rsmatch_jax
from rsmatch_jax import errors, export
from rsmatch_jax.deploy import frozen


def examples():
    """The page's Python blocks."""
    page = blocks(ROOT / "docs" / "using-a-model.md")
    return [block.text for block in page if block.language == "python"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory as the page has it."""
    root = tmp_path_factory.mktemp("library")
    workdirs.make(root / "runs" / "demo", steps=(3, 7), **BLOCKS)
    for name, shape in (("scan.png", (8, 8)), ("photo.jpg", (40, 60, 3))):
        pixels = np.random.default_rng(len(shape)).integers(0, 256, shape, np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


def run(program, folder, blocked=()):
    """A fresh process in which some modules are as if not installed."""
    code = f"""
    import sys
    sys.modules.update(dict.fromkeys({blocked!r}))
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code) + program],
        cwd=folder,
        env={"PATH": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_example_of_the_library_runs(place):
    library, _ = examples()
    done = run(library + "\nprint(features.shape, images.shape)", place)
    assert done.returncode == 0, done.stderr
    *lines, shapes = done.stdout.splitlines()
    assert shapes == "(2, 64) (2, 8, 8, 3)"
    model = rsmatch_jax.load(str(place / "runs" / "demo"), "best")
    assert model.step == 3
    predictions = model.predict(
        model.read([str(place / x) for x in ("scan.png", "photo.jpg")])
    )
    for row, line in enumerate(lines):
        name, p, synthetic = line.split()
        assert name == model.class_names[predictions.labels[row]]
        assert float(p) == pytest.approx(predictions.probabilities[row].max(), abs=1e-5)
        assert float(synthetic) == pytest.approx(
            predictions.synthetic_scores[row], abs=1e-5
        )
    assert len(lines) == 2


BLOCKED = (
    *("rsmatch_jax", "flax", "orbax", "optax", "tensorflow", "ml_collections", "absl"),
    *("PIL", "sklearn", "tensorflow_datasets", "clu", "chex", "orbax.checkpoint"),
)


def test_the_example_of_an_exported_file_needs_jax_and_flatbuffers(place):
    _, example = examples()
    imported = {
        name.name.split(".")[0]
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.Import)
        for name in node.names
    }
    assert imported == {"jax", "numpy"}
    assert len(example.strip().splitlines()) <= 10
    argv = [f"--workdir={place}/runs/demo", f"--out={place}/digits.jaxexport"]
    assert export.main(argv) == 0
    program = example + "print(probabilities.shape, 'flatbuffers' in sys.modules)"
    done = run(program, place, BLOCKED)
    assert done.returncode == 0, done.stderr
    labels, shapes = done.stdout.splitlines()
    assert shapes == "(5, 10) True"
    expected = frozen.load(str(place / "runs" / "demo")).predict(
        np.zeros((5, 8, 8, 3), np.uint8)
    )
    assert labels == str(expected.labels)
    for name in BLOCKED[:5]:  # they are blocked indeed
        assert run(f"import {name}", place, BLOCKED).returncode == 1


def test_mistakes_are_of_kinds_that_python_has(place):
    with pytest.raises(ValueError, match="no such folder"):
        rsmatch_jax.load(str(place / "gone"))
    with pytest.raises(errors.RequestError, match="choose last, best or one of 3, 7"):
        rsmatch_jax.load(str(place / "runs" / "demo"), "5")
