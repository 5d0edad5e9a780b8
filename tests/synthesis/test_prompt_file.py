"""Reads back prompt files; a bad line is named."""

import pytest

from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis.prompts import prompt_file
from rsmatch_jax.synthesis.prompts.prompt_file import Prompt

HEADER = prompt_file.text("pets", ["cat", "dög"], {"seed": 3}, ())


def test_round_trip(tmp_path):
    path = tmp_path / "p.jsonl"
    prompts = (Prompt(1, 'A "dög" barks.'), Prompt(0, "a cat"))
    text = prompt_file.text("pets", ["cat", "dög"], {"seed": 3}, prompts)
    assert text.startswith(HEADER)
    path.write_text(text, "utf-8")
    content_read = prompt_file.read(str(path))
    assert content_read.prompts == prompts
    assert content_read.dataset == "pets"
    assert content_read.class_names == ("cat", "dög")
    assert content_read.header["seed"] == 3


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "line 1"),
        ("[]\n", "line 1"),
        ('{"dataset": "pets"}\n', "class names"),
        ('{"dataset": "pets", "class_names": []}\n', "class names"),
        (HEADER + '{"label": 2, "prompt": "x"}\n', "line 2: label=2"),
        (HEADER + '{"label": true, "prompt": "x"}\n', "label=True"),
        (HEADER + '{"label": 0, "prompt": " "}\n', "line 2: no prompt"),
        (HEADER + '{"label": 0, "prompt": "x"}\n{"la', "line 3"),
    ],
)
def test_bad_lines_are_named(tmp_path, content, named):
    path = tmp_path / "p.jsonl"
    path.write_text(content, "utf-8")
    with pytest.raises(RequestError, match=named):
        prompt_file.read(str(path))


def test_what_editors_leave_is_read(tmp_path):
    path = tmp_path / "p.jsonl"
    lines = HEADER + '{"label": 0, "prompt": "one\u2028two"}\n\n'
    path.write_text("\ufeff" + lines, "utf-8")
    (prompt,) = prompt_file.read(str(path)).prompts
    assert prompt.text == "one\u2028two"


def test_no_file(tmp_path):
    with pytest.raises(RequestError, match=r"synthesis\.prompts"):
        prompt_file.read(str(tmp_path / "none"))
