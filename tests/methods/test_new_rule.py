"""The rule of docs/adding-a-rule.md: a file, a line, a block of keys, and it trains."""

import pathlib
import re
import shutil

from support import fresh_process

ROOT = pathlib.Path(__file__).parents[2]
DICTIONARY, COMMON = "rsmatch_jax/methods/rules.py", "configs/common.py"
NEW = "rsmatch_jax/methods/topshare.py"
TRAIN = """
import conftest  # four CPU devices, checked shapes
import contextlib, io, pathlib, tempfile
import rsmatch_jax
from rsmatch_jax.engine import checks
from rsmatch_jax.errors import RequestError
from support import helpers, runs

assert pathlib.Path(rsmatch_jax.__file__).parents[1] == pathlib.Path.cwd()
NAME, BELOW = "method.name", "method.rsmatch.pseudo_label"
for key in (NAME, BELOW):
    folder = pathlib.Path(tempfile.mkdtemp())
    with contextlib.redirect_stdout(io.StringIO()):
        result = runs.run(folder, 2, **{key: "topshare", "train.num_steps": 3})
    print(result["status"], result["steps"], 0 < result["utilisation"] < 1)
share, other = "method.topshare.share", helpers.config(**{NAME: "fixmatch"})
many = helpers.config(**{NAME: "topshare", share: 1.5})
for call in (
    lambda: checks.check(many, 1),
    lambda: checks.check_overrides(other, [share]),
):
    try:
        call()
    except RequestError as e:
        print(e)
"""
EXPECTED = """\
finished 3 True
finished 3 True
method.topshare.share=1.5: it must lie between 0 and 1
method.topshare.share=0.3: method.name=fixmatch ignores it; it belongs to \
method.name=topshare and to method.rsmatch.pseudo_label=topshare
"""


def test_the_rule_of_the_docs_trains_alone_and_below_rsmatch(tmp_path):
    """A copy of the package needs one file, one line and one block of keys more."""
    text = (ROOT / "docs" / "adding-a-rule.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    rule, line, keys = blocks
    assert len(rule.splitlines()) <= 40 and len(line.splitlines()) == 1
    for part in ("rsmatch_jax", "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignore)
    (tmp_path / NEW).write_text(rule)
    for path, text, before in (
        (DICTIONARY, line, "    }.items()"),
        (COMMON, keys, "    a.rsmatch = "),
    ):
        old = (tmp_path / path).read_text()
        assert old.count(before) == 1
        (tmp_path / path).write_text(old.replace(before, text + before))
    program = f"import sys; sys.path[:0] = ['.']\n{TRAIN}"
    environ = {"PYTHONPATH": str(ROOT / "tests")}
    assert fresh_process.run(program, tmp_path, **environ) == EXPECTED
