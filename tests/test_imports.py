"""Who may import whom: levels, TensorFlow's corner, and a run without TensorFlow."""

import ast
import pathlib
import subprocess
import sys
import textwrap

import pytest

from rsmatch_jax.methods import METHODS

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "rsmatch_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# A file imports only from lower levels or its own folder (top level: its own level).
LEVELS = {
    "__version__": 0,
    "errors": 0,
    "cluster": 0,
    "supervisor": 1,
    "hosts": 1,
    "stopping_together": 1,
    "terminal": 0,
    "locks": 0,
    "state": 0,
    "losses": 0,
    "csqueue": 0,
    "views": 0,
    "augment": 0,
    "parallel": 0,
    "ordering": 0,
    "fingerprint": 0,
    "stopping": 1,
    "models": 1,
    "optim": 1,
    "methods": 2,
    "step": 3,
    "data": 3,
    "evaluation": 4,
    "figures": 4,
    "mistakes": 4,
    "checkpoint": 4,
    "logbook": 4,
    "markdown": 4,
    "pictures": 4,
    "record": 4,
    "health": 4,
    "workdir": 4,
    "compilation": 4,
    "experiment": 5,
    "feed": 5,
    "plan": 5,
    "memory": 5,
    "command_line": 5,
    "validate": 5,
    "loop": 5,
    "train": 5,
    "sweeps": 5,
    "saved": 5,
    "inference": 5,
    "model_card": 5,
    "sweep": 6,
    "evaluate": 6,
    "predict": 6,
    "export": 6,
    "analysis": 6,
    "report": 6,
    "bench": 6,
    "synthesis": 6,
}
# Third parties that only some levels may import at the top of a file.
OUTSIDE = {
    "flax.linen": ("models",),
    "orbax": ("checkpoint",),
    "ml_collections": ("command_line",),
    "tensorflow": ("data.tf_",),
    "tensorflow_datasets": ("data.tf_",),
    "clu": (),
    "matplotlib": (),
    "plotly": ("report.curves", "report.run_curves"),
    "jinja2": ("report.page",),
}


def module(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path, top_only=False):
    """Dotted names that a file imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level(dotted):
    return LEVELS[dotted.split(".")[0]]


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_point_downwards(path):
    if path.name == "__init__.py" and path.parent == PACKAGE:
        assert not list(imports(path, top_only=True))
        return
    mine = module(path)
    for name in imports(path):
        if not name.startswith("rsmatch_jax."):
            continue
        other = name.removeprefix("rsmatch_jax.")
        same_room = other.split(".")[0] == mine.split(".")[0]
        assert same_room or level(other) <= level(mine), f"{mine} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_third_parties_stay_in_their_corner(path):
    for name in imports(path, top_only=True):
        for library, corners in OUTSIDE.items():
            if name == library or name.startswith(library + "."):
                assert module(path).startswith(corners or "-"), f"{path}: {name}"
    lazy = set(imports(path)) - set(imports(path, top_only=True))
    for name in lazy:
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets"):
            assert module(path).startswith("data.tf_"), f"{path}: {name}"
        if name.split(".")[0] == "clu":
            assert module(path) == "logbook"


def test_files_stay_readable():
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 400, path


def test_every_method_without_tensorflow():
    """In a process where importing TensorFlow, tfds or clu fails; and a whole run."""
    program = """
    import contextlib
    import io
    import sys
    import tempfile

    # None makes an import fail, and leaves JAX's compilation cache in use.
    sys.modules.update(dict.fromkeys(("tensorflow", "tensorflow_datasets", "clu")))
    sys.path[:0] = [".", "tests"]
    import conftest
    import jax
    from helpers import batches, build, config
    from rsmatch_jax import parallel
    from rsmatch_jax import train as whole_run
    from rsmatch_jax.methods import METHODS

    for method in METHODS:
        _, _, exp = build(**{"method.name": method})
        batch = parallel.shard_rows(next(batches(exp, 1)), exp.devices)
        exp.train_step().lower(exp.state_shapes(), batch)
        print(method)
    short = {"method.name": "fixmatch", "train.num_steps": 2}
    with contextlib.redirect_stdout(io.StringIO()):
        result = whole_run.run(
            config(**short), tempfile.mkdtemp(), devices=jax.local_devices()[:1]
        )
    assert result["status"] == "finished"
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(METHODS)
