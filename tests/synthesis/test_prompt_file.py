"""Reads back prompt files; a bad line is named."""

import pytest

from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis.prompts import prompt_file
from rsmatch_jax.synthesis.prompts.prompt_file import Prompt

HEADER = prompt_file.text("pets", ["cat", "dög"], {"seed": 3}, ())


def test_round_trip(tmp_path):
    path = tmp_path / "p.jsonl"
    prompts = (Prompt(1, 'A "dög" barks.'), Prompt(0, "one\u2028two"))
    text = prompt_file.text("pets", ["cat", "dög"], {"seed": 3}, prompts)
    assert text.startswith(HEADER)
    path.write_text(f"\ufeff{text}\n\n", "utf-8")  # as some editors leave it
    content_read = prompt_file.read(str(path))
    assert content_read.prompts == prompts
    assert content_read.dataset == "pets"
    assert content_read.class_names == ("cat", "dög")
    assert content_read.header["seed"] == 3


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, r"synthesis\.prompts"),
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
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(RequestError, match=named):
        prompt_file.read(str(path))
