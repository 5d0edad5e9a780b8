"""Who may import whom: levels, TensorFlow's corner, and a run without TensorFlow."""

import ast
import pathlib
import subprocess
import sys
import textwrap

import pytest

from rsmatch_jax.methods.catalogue import METHODS

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "rsmatch_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# A file imports from its own folder and from lower levels alone. Top-level modules are
# folders of their own.
LEVELS = [
    ("errors",),
    ("files", "terminal", "version"),
    ("runtime", "state", "losses", "optim"),
    ("models", "augment"),
    ("methods",),
    ("step",),
    ("data",),
    ("metrics",),
    ("runs",),
    ("engine",),
    ("deploy",),
    ("analysis", "synthesis"),
    ("report", "train", "evaluate", "predict", "export"),
    ("bench", "sweep"),
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
# Third parties that only some levels may import at the top of a file.
OUTSIDE = {
    "flax.linen": ("models",),
    "orbax": ("runs.checkpoint",),
    "ml_collections": ("engine.config_file",),
    "tensorflow": (".tf_",),
    "tensorflow_datasets": (".tf_",),
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


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_point_downwards(path):
    if path.name == "__init__.py":
        assert not list(imports(path, top_only=True))
        return
    mine = module(path)
    for name in imports(path):
        if not name.startswith("rsmatch_jax."):
            continue
        other = name.removeprefix("rsmatch_jax.")
        there, here = other.split(".")[0], mine.split(".")[0]
        assert there == here or LEVEL[there] < LEVEL[here], f"{mine} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_third_parties_stay_in_their_corner(path):
    for name in imports(path, top_only=True):
        for library, corners in OUTSIDE.items():
            if name == library or name.startswith(library + "."):
                assert any(c in module(path) for c in corners), f"{path}: {name}"
    lazy = set(imports(path)) - set(imports(path, top_only=True))
    for name in lazy:
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets"):
            assert module(path).split(".")[-1].startswith("tf_"), f"{path}: {name}"
        if name.split(".")[0] == "clu":
            assert module(path) == "runs.logbook"


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
    from support.helpers import batches, build, config
    from rsmatch_jax import train as whole_run
    from rsmatch_jax.methods.catalogue import METHODS
    from rsmatch_jax.runtime import parallel

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
