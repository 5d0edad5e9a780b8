"""The rule of docs/adding-a-rule.md: a file, a line, a block of keys, and it trains."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).parents[2]
DICTIONARY, COMMON = "rsmatch_jax/methods/rules.py", "configs/common.py"
NEW = "rsmatch_jax/methods/topshare.py"
TRAIN = """
import conftest  # four CPU devices, checked shapes
import contextlib, functools, io, pathlib, tempfile
import jax
import rsmatch_jax
from configs import common
from rsmatch_jax.engine import stages
from rsmatch_jax.engine import checks
from rsmatch_jax.errors import RequestError
from rsmatch_jax.models import networks

assert pathlib.Path(rsmatch_jax.__file__).parents[1] == pathlib.Path.cwd()
networks.MODELS["tiny"] = functools.partial(networks.WideResNet, 4, 1)


def config(**method):
    c = common.get_config()
    c.model.classifier = c.model.detector = "tiny"
    c.data.labels_per_class = c.train.batch_size = 4
    c.train.unlabeled_ratio, c.train.num_steps = 2, 3
    c.log.tensorboard = False
    c.method.update(method)
    return c.lock()


for method in ({"name": "topshare"}, {"rsmatch": {"pseudo_label": "topshare"}}):
    with contextlib.redirect_stdout(io.StringIO()):
        devices = jax.local_devices()[:2]
        result = stages.run(config(**method), tempfile.mkdtemp(), devices=devices)
    print(result["status"], result["steps"], 0 < result["utilisation"] < 1)
for call in (
    lambda: checks.check(config(name="topshare", topshare={"share": 1.5}), 1),
    lambda: checks.check_overrides(config(name="fixmatch"), ["method.topshare.share"]),
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

    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = ['.']\n{TRAIN}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, textwrap.indent(done.stderr, "  ")
    assert done.stdout == EXPECTED
