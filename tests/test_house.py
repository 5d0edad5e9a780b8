"""Rules of the house, checked on the syntax trees: names and sizes."""

import ast
import itertools
import os
import pathlib
import re
import sys

from rsmatch_jax import cli

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "rsmatch_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
READ = [*FILES, ROOT / "launch.py", *sorted(ROOT.glob("configs/*.py"))]
TREES = {path: ast.parse(path.read_text()) for path in READ}

# Names that do not say what they hold.
VAGUE = {"found", "asked", "own", "said", "told"}
FILE_LINES = 400
FUNCTION_LINES = 60
# What may follow the common beginning of two names that are too easily confused.
ENDINGS = ("", "e", "s", "es", "er", "ers", "or", "ing", "ings", "ed", "ment")
ENDINGS += ("ion", "ions", "ation", "ations", "y", "ies")


def relative(path):
    return str(path.relative_to(ROOT))


def defined(tree):
    """(name, line) of every name that a file gives to something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            if isinstance(node.ctx, ast.Store):
                name = node.id if isinstance(node, ast.Name) else node.attr
                yield name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler):
            yield node.name, node.lineno
        elif isinstance(node, ast.alias):
            yield node.asname, 0


def without_docstring(body):
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return body[1:]
    return body


def test_names_say_what_they_hold():
    vague = [
        f"{relative(path)}:{line} {name}"
        for path, tree in TREES.items()
        for name, line in defined(tree)
        if name in VAGUE
    ]
    assert not vague, "\n".join(vague)


def test_files_and_functions_are_short():
    long = []
    for path in FILES:
        sizes = [("the file", len(path.read_text().splitlines()), FILE_LINES)]
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                sizes.append((node.name, length, FUNCTION_LINES))
        for name, length, limit in sizes:
            if length > limit:
                long.append(f"{relative(path)}: {name} has {length} lines, not {limit}")
    assert not long, "\n".join(long)


def test_init_files_hold_a_docstring_alone():
    for path in FILES:
        if path.name == "__init__.py" and path.parent != PACKAGE:
            assert ast.get_docstring(TREES[path]), path
            assert not without_docstring(TREES[path].body), path


def modules_and_folders():
    names = {path.stem for path in FILES} | {path.parent.name for path in FILES}
    return sorted(name for name in names if not name.startswith("__"))


def test_no_module_has_a_name_of_the_standard_library():
    assert not set(modules_and_folders()) & set(sys.stdlib_module_names)


def differ_by_an_ending(a, b):
    begin = os.path.commonprefix([a, b])
    ends = [
        # A doubled consonant belongs to the ending: stop, stop-ping.
        end[1:] if end[:1] == begin[-1:] and end[1:] in ENDINGS else end
        for end in (a[len(begin) :], b[len(begin) :])
    ]
    return len(begin) >= 3 and all(end in ENDINGS for end in ends)


def test_no_two_names_differ_by_an_ending():
    pairs = itertools.combinations(modules_and_folders(), 2)
    assert not [pair for pair in pairs if differ_by_an_ending(*pair)]


def test_such_names_would_be_noticed():
    pairs = ["train training", "evaluate evaluation", "stop stopping", "sweep sweeps"]
    for pair in [*pairs, "pipeline pipelines", "report reporter"]:
        a, b = pair.split()
        assert differ_by_an_ending(a, b)
        assert not differ_by_an_ending(a, "loop")


def test_private_jax_stays_in_one_file():
    assert len([path for path in FILES if "jax._src" in path.read_text()]) <= 1


def test_every_command_is_a_door():
    """`main(argv=None)` returns the exit code, and `python -m` calls it so; what may
    load TensorFlow leaves out Python's end."""
    for name, (place, _) in cli.COMMANDS.items():
        path = PACKAGE / f"{place.replace('.', '/')}.py"
        (main,) = (n for n in TREES[path].body if getattr(n, "name", "") == "main")
        assert [arg.arg for arg in main.args.args] == ["argv"], name
        assert len(main.args.defaults) == 1, name
        assert re.search(r"(sys\.exit|terminal\.leave)\(main\(\)\)", path.read_text())
