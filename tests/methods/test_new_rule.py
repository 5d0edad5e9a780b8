"""The rule of docs/adding-a-rule.md and the method of docs/adding-a-method.md train,
each with a file, a line and a block of keys."""

import shutil

from support import fresh_process
from support.pages import ROOT, blocks

COMMON = "configs/common.py", "    a.rsmatch = "
BEGIN = """
import conftest  # four CPU devices, checked shapes
import contextlib, io, pathlib, tempfile
import rsmatch_jax
from rsmatch_jax.engine import checks
from rsmatch_jax.errors import RequestError
from support import helpers, runs

assert pathlib.Path(rsmatch_jax.__file__).parents[1] == pathlib.Path.cwd()

def trained(devices, **keys):
    folder = pathlib.Path(tempfile.mkdtemp())
    with contextlib.redirect_stdout(io.StringIO()):
        result = runs.run(folder, devices, **{"train.num_steps": 3, **keys})
    return result, [x for x in runs.lines(folder) if "train/loss" in x]

def refusals(*calls):
    for call in calls:
        try:
            call()
        except RequestError as e:
            print(e)
"""
RULE = """
NAME, BELOW = "method.name", "method.rsmatch.pseudo_label"
for key in (NAME, BELOW):
    result, _ = trained(2, **{key: "topshare"})
    print(result["status"], result["steps"], 0 < result["utilisation"] < 1)
share, other = "method.topshare.share", helpers.config(**{NAME: "fixmatch"})
many = helpers.config(**{NAME: "topshare", share: 1.5})
refusals(
    lambda: checks.check(many, 1), lambda: checks.check_overrides(other, [share])
)
"""
OF_RULE = """\
finished 3 True
finished 3 True
method.topshare.share=1.5: it must lie between 0 and 1
method.topshare.share=0.3: method.name=fixmatch ignores it; it belongs to \
method.name=topshare and to method.rsmatch.pseudo_label=topshare
"""
METHOD = """
NAME = {"method.name": "meanteacher", "method.meanteacher.ramp_steps": 2}
for devices in (1, 2):
    result, lines = trained(devices, **NAME, **{"log.every_steps": 1})
    loss, sup, unsup = (
        [line["train/" + name] for line in lines]
        for name in ("loss", "loss_sup", "loss_unsup")
    )
    ramp = (0, 0.5, 1)
    formula = [s + 10 * r * u for s, r, u in zip(sup, ramp, unsup)]
    right = [abs(a - b) < 1e-4 for a, b in zip(loss, formula)]
    print(result["status"], right, min(unsup) > 0)
none = helpers.config(**{**NAME, "method.meanteacher.ramp_steps": 0})
refusals(lambda: checks.check(none, 1))
"""
OF_METHOD = """\
finished [True, True, True] True
finished [True, True, True] True
method.meanteacher.ramp_steps=0: it must be 1 or more
"""


def examples(page):
    page = blocks(ROOT / "docs" / page)
    return [block.text for block in page if block.language == "python"]


def run(program, folder, file, insertions):
    """Runs a program in a copy of the package with one file more, and with texts put
    before the only occurrence of others. file: (path, text). insertions: of texts, each
    with (path, the text before which it comes)."""
    for part in ("rsmatch_jax", "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, folder / part, ignore=ignore)
    (folder / file[0]).write_text(file[1])
    for text, (path, before) in insertions:
        old = (folder / path).read_text()
        assert old.count(before) == 1
        (folder / path).write_text(old.replace(before, text + before))
    program = f"import sys; sys.path[:0] = ['.']\n{BEGIN}{program}"
    return fresh_process.run(program, folder, PYTHONPATH=str(ROOT / "tests"))


def test_the_rule_of_the_docs_trains_alone_and_below_rsmatch(tmp_path):
    """A copy of the package needs one file, one line and one block of keys more."""
    rule, line, keys = examples("adding-a-rule.md")
    assert len(rule.splitlines()) <= 40 and len(line.splitlines()) == 1
    file = "rsmatch_jax/methods/topshare.py", rule
    places = [("rsmatch_jax/methods/rules.py", "    }.items()"), COMMON]
    insertions = zip((line, keys), places, strict=True)
    assert run(RULE, tmp_path, file, insertions) == OF_RULE


def test_the_method_of_the_docs_trains_by_its_formula(tmp_path):
    method, imported, line, keys = examples("adding-a-method.md")
    assert len(method.splitlines()) <= 45 and len(line.splitlines()) == 1
    file = "rsmatch_jax/methods/meanteacher.py", method
    catalogue = "rsmatch_jax/methods/catalogue.py"
    places = [
        (catalogue, "from rsmatch_jax.methods.openmatch"),
        (catalogue, '    "simmatch": '),
        COMMON,
    ]
    insertions = zip((imported, line, keys), places, strict=True)
    assert run(METHOD, tmp_path, file, insertions) == OF_METHOD
