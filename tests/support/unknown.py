"""A run on unlabelled images of unknown origin: no file holds a figure of them."""

from support.runs import lines

from rsmatch_jax.metrics import names
from rsmatch_jax.report import __main__ as report

# What an evaluation may say of such images: it needs no truth about them.
NEEDS_NONE = {"detector_accuracy_labelled", "queue_fill", "utilisation"}
ABOUT_UNLABELLED = {
    name for name in names.TITLES if not name.startswith(("test_", "validation"))
} - NEEDS_NONE
ABOUT_UNLABELLED |= {f"detector_accuracy_per_{x}" for x in ("class", "generator")}
ABOUT_UNLABELLED.add("queue_purity_per_class")


def numbers(value, path=""):
    """(path, number) of every number in a JSON value."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from numbers(part, f"{path}.{key}")
    elif isinstance(value, list):
        for part in value:
            yield from numbers(part, path)
    elif value is not None and not isinstance(value, str | bool):
        yield path, value


def check(folder, result, images, capsys):
    """Walks all numbers of metrics.jsonl, result.json and the report's page. images:
    unlabelled ones, no origin or class of which is known, but of the labelled ones."""
    evaluations = [x for x in lines(folder) if "eval/test_accuracy" in x]
    assert evaluations
    known = {"origins": 0, "classes": 0, "queue": 0, "images": images}
    for line in evaluations:
        keys = {path.split(".")[1].removeprefix("eval/") for path, _ in numbers(line)}
        assert not keys & ABOUT_UNLABELLED
        assert keys >= NEEDS_NONE
        assert line["eval/known"] == known
    assert result["known"] == known
    for name in names.LAST:
        assert (result[name] is None) == (name in ABOUT_UNLABELLED)
    of_result = {path.split(".")[1] for path, _ in numbers(result)}
    assert not of_result & ABOUT_UNLABELLED
    assert report.main([str(folder)]) == 0
    capsys.readouterr()
    page = (folder / "report.html").read_text()
    body = page[page.index("<body>") :]
    assert "the figures about origins count 0" in body
    for name in ABOUT_UNLABELLED & set(names.RESULT_TITLES):
        assert f'data-figure="{name}"' not in body
