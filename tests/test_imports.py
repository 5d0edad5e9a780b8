"""Which module may import which: the levels of the folders, and where other packages
may be imported. Also a whole run without TensorFlow."""

import ast
import pathlib
import sys

from support import fresh_process

from rsmatch_jax.methods.catalogue import METHODS

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "rsmatch_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up. A module imports from its folder and from lower levels, never from
# another folder of its level. A module that lies in no folder counts as a folder.
LEVELS = [
    ("errors",),
    ("progress",),
    ("files", "terminal", "version"),
    ("contact_sheet", "templates"),
    ("runtime", "state", "losses", "optim"),
    ("models", "augment", "forensics", "flat"),
    ("methods",),
    ("step",),
    ("data",),
    ("metrics",),
    ("runs",),
    ("engine",),
    ("deploy",),
    ("analysis", "synthesis"),
    ("report", "train", "evaluate", "predict", "export", "sift"),
    ("bench", "sweep"),
    ("cli",),
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
# The modules that may import a package at the top of the file. Elsewhere the import
# stands inside a function, because the package is large or optional.
AT_THE_TOP = {
    "flax.linen": ("models.",),
    "orbax": ("runs.checkpoint", "runs.orbax_parts"),
    "ml_collections": ("engine.config_file",),
    "tensorflow": (".tf_",),
    "tensorflow_datasets": (".tf_",),
    "clu": (),
    "matplotlib": (),
    "plotly": ("report.curves", "report.run_curves"),
    "jinja2": (".templates",),
}
# The modules that may import a package at all.
ANYWHERE = {
    "tensorflow": (".tf_",),
    "tensorflow_datasets": (".tf_",),
    "clu": ("runs.logbook",),
}


def module(path):
    """Returns the dotted name below rsmatch_jax, such as runs.workdir."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path, top_only=False):
    """Yields the dotted names that a file imports."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(path):
    """Yields the names below rsmatch_jax that a file imports."""
    for name in imports(path):
        if name.startswith("rsmatch_jax."):
            yield name.removeprefix("rsmatch_jax.")


def test_every_folder_has_a_level():
    tops = {module(path).split(".")[0] for path in FILES}
    assert tops - {"__init__", "__main__"} == set(LEVEL)


def test_imports_point_downwards():
    upwards = []
    for path in FILES:
        here = module(path).split(".")[0]
        if path.parent == PACKAGE and path.stem.startswith("__"):
            continue  # the package's public surface and `python -m rsmatch_jax`
        for name in inside(path):
            there = name.split(".")[0]
            if there != here and LEVEL[there] >= LEVEL[here]:
                upwards.append(f"{module(path)} imports {name}")
    assert not upwards, "\n".join(upwards)


def test_other_packages_stay_in_their_modules():
    misplaced = []
    for allowed, top_only in ((AT_THE_TOP, True), (ANYWHERE, False)):
        for path in FILES:
            for name in imports(path, top_only):
                for package, places in allowed.items():
                    if f"{name}.".startswith(f"{package}.") and not any(
                        place in f".{module(path)}" for place in places
                    ):
                        misplaced.append(f"{module(path)} imports {name}")
    assert not misplaced, "\n".join(misplaced)


def test_configs_import_little():
    """A config file loads at once: of other packages it needs ml_collections alone."""
    for path in ROOT.glob("configs/*.py"):
        names = {name.split(".")[0] for name in imports(path)}
        others = names - {"configs", "ml_collections"}
        assert others <= set(sys.stdlib_module_names), path


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
    from rsmatch_jax.engine import stages
    from rsmatch_jax.methods.catalogue import METHODS
    from rsmatch_jax.runtime import parallel

    for method in METHODS:
        _, _, exp = build(**{"method.name": method})
        batch = parallel.shard_rows(next(batches(exp, 1)), exp.devices)
        exp.train_step().lower(exp.state_shapes(), batch)
        print(method)
    short = {"method.name": "fixmatch", "train.num_steps": 2}
    with contextlib.redirect_stdout(io.StringIO()):
        result = stages.run(
            config(**short), tempfile.mkdtemp(), devices=jax.local_devices()[:1]
        )
    assert result["status"] == "finished"
    """
    assert len(fresh_process.run(program).splitlines()) == len(METHODS)
