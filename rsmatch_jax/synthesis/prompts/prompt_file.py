"""Reads and writes prompt files: JSON lines, first a header, then one prompt a line.

    {"dataset": "cifar10", "class_names": ["airplane", ...], ...how they were made}
    {"label": 0, "prompt": "A silver airplane lands on the runway."}

Classes alternate, so that the first pictures drawn from a file cover all classes.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rsmatch_jax.errors import RequestError

_MAKE = "`rsmatch prompts` makes such a file"


class Prompt(NamedTuple):
    """label: position in the class names; text: the generator's input."""

    label: int
    text: str


class PromptFile(NamedTuple):
    """header: the first line; prompts: in the order of the file."""

    header: Mapping[str, Any]
    prompts: Sequence[Prompt]

    @property
    def dataset(self) -> str:
        return self.header["dataset"]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.header["class_names"])

    def digest(self, count: int | None = None) -> str:
        """Returns text that identifies the first `count` prompts; None is all of them.
        It covers the dataset and the class names, but nothing else of the header."""
        first = self.prompts[:count]
        content = json.dumps([self.dataset, self.class_names, first])
        number = hashlib.sha256(content.encode()).hexdigest()[:16]
        return f"{len(first)} of digest {number}"


def text(
    dataset: str,
    class_names: Sequence[str],
    how: Mapping[str, Any],
    prompts: Iterable[Prompt],
) -> str:
    """Returns the content of a prompt file. how: the rest of the header."""
    header = {"dataset": dataset, "class_names": list(class_names), **how}
    lines = [header, *({"label": label, "prompt": text} for label, text in prompts)]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def read(path: str) -> PromptFile:
    """Reads a prompt file; raises RequestError that names a wrong line."""
    try:
        with open(path, encoding="utf-8-sig") as f:
            # Not splitlines(): a sentence may contain Unicode's other line ends.
            lines = f.read().rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise RequestError(f"--prompts={path} cannot be read: {e}; {_MAKE}") from None
    header = _parse(path, 1, lines[0])
    names = header.get("class_names")
    strings = isinstance(names, list) and all(isinstance(n, str) and n for n in names)
    if not isinstance(header.get("dataset"), str) or not strings or not names:
        raise RequestError(f"{path}, line 1: no dataset and class names; {_MAKE}")
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
