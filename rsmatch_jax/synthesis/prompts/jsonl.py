"""Prompts on disk: a JSONL file, first a line about all of them, then one a line.

    {"dataset": "cifar10", "class_names": ["airplane", ...], ...how they were made}
    {"label": 0, "prompt": "A silver airplane lands on the runway."}

Classes alternate, so that the first pictures drawn from a file are of all classes.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rsmatch_jax.errors import RequestError


@dataclasses.dataclass(frozen=True)
class Prompt:
    """label: position in the class names; text: what the generator is told."""

    label: int
    text: str


@dataclasses.dataclass(frozen=True)
class PromptFile:
    """header: all of the first line; `prompts`: in the file's order."""

    header: Mapping[str, Any]
    prompts: Sequence[Prompt]

    @property
    def dataset(self) -> str:
        return self.header["dataset"]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.header["class_names"])

    def digest(self, count: int | None = None) -> str:
        """What tells the first `count` prompts from others: of all where it is None.

        The dataset and classes that they are for count as well, nothing else of the
        header does.
        """
        first = [dataclasses.astuple(prompt) for prompt in self.prompts[:count]]
        content = json.dumps([self.dataset, self.class_names, first])
        number = hashlib.sha256(content.encode()).hexdigest()[:16]
        return f"{len(first)} of digest {number}"


def header_line(dataset: str, class_names: Sequence[str], how: Mapping[str, Any]):
    """The file's first line, with its newline."""
    content = {"dataset": dataset, "class_names": list(class_names), **how}
    return json.dumps(content, ensure_ascii=False) + "\n"


def prompt_line(prompt: Prompt) -> str:
    """One prompt's line, with its newline."""
    content = {"label": prompt.label, "prompt": prompt.text}
    return json.dumps(content, ensure_ascii=False) + "\n"


def read(path: str) -> PromptFile:
    """Raises RequestError naming the line that is none of the above."""
    try:
        with open(path, encoding="utf-8-sig") as f:
            # Not splitlines(): a sentence may hold what Unicode calls a line's end.
            lines = f.read().rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise RequestError(
            f"--prompts={path} cannot be read: {e}; `python -m "
            "rsmatch_jax.synthesis.prompts` makes such a file"
        ) from None
    header = _parse(path, 1, lines[0])
    names = header.get("class_names")
    if not isinstance(header.get("dataset"), str) or not _are_names(names):
        raise RequestError(
            f"{path}, line 1: no dataset and class names; `python -m "
            "rsmatch_jax.synthesis.prompts` makes such a file"
        )
    prompts = []
    for number, line in enumerate(lines[1:], start=2):
        content = _parse(path, number, line)
        label, text = content.get("label"), content.get("prompt")
        if type(label) is not int or not 0 <= label < len(names):
            raise RequestError(
                f"{path}, line {number}: label={label!r} is none of 0..{len(names) - 1}"
            )
        if not isinstance(text, str) or not text.strip():
            raise RequestError(f"{path}, line {number}: no prompt")
        prompts.append(Prompt(label, text))
    return PromptFile(header, tuple(prompts))


def _are_names(names: Any) -> bool:
    return (
        isinstance(names, list)
        and bool(names)
        and all(isinstance(n, str) and n for n in names)
    )


def _parse(path: str, number: int, line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise RequestError(
            f"{path}, line {number} is no JSON object; delete that line, or make the "
            "file again"
        )
    return content
