"""Accepts and counts the sentences of each class, and records them in a journal.

The journal <out>.partial lets a killed run continue. It has JSON lines: the request
first, then one line per batch of sentences. A batch depends only on its class and its
number within the class, so the number of judged sentences of a class tells where to
continue. A finished prompt file has these numbers too; a longer file continues from it.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import IO, Any

from rsmatch_jax import files
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.synthesis.prompts import prompt_file, words

REASONS = ("unfinished", "word missing", "repeated")


@dataclasses.dataclass
class Tally:
    """The judged sentences of one class. texts: accepted sentences by their casefolded
    text. rejected: numbers by reason."""

    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    rejected: dict[str, int] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(REASONS, 0)
    )

    @property
    def sampled(self) -> int:
        """The number of judged sentences."""
        return len(self.texts) + sum(self.rejected.values())

    def add(self, batch: Mapping[str, Any]):
        """Counts a batch from `judge` or from the journal.

        A batch that does not continue this tally raises ValueError, KeyError or
        TypeError and changes nothing.
        """
        texts = {text.casefold(): text for text in batch["texts"]}
        part = Tally(texts, {reason: batch["rejected"][reason] for reason in REASONS})
        if batch["first"] != self.sampled or batch["sampled"] != part.sampled:
            raise ValueError("a batch that does not follow")
        self.texts |= texts
        self.rejected = {r: self.rejected[r] + n for r, n in part.rejected.items()}

    def skip(
        self, batch: Sequence[tuple[str, bool]], count: int
    ) -> Sequence[tuple[str, bool]]:
        """Drops the first `count` sentences of a batch, which are judged already.
        Raises RunFailed if the last of them is not the last accepted sentence."""
        # A shorter file stopped in this batch, at the sentence that filled the class.
        last = next(reversed(self.texts.values()), "")
        if count and _one_line(batch[count - 1][0]) != last:
            raise RunFailed(
                f"the model wrote {last!r} here and does not do so again, so a longer "
                "file would not equal one made at once; name another --out"
            )
        return batch[count:]


def judge(
    tally: Tally,
    sentences: Iterable[tuple[str, bool]],
    word: str,
    per_class: int,
    allow_missing_word: bool,
) -> dict[str, Any]:
    """Accepts sentences of a batch until the class has `per_class`.

    Line breaks become spaces. The tally does not change. sentences: pairs (text,
    whether it is complete).

    Returns:
        {"first": sentences of the class judged before, "texts": accepted, "sampled":
        sentences judged now, "rejected": {reason: count}}.
    """
    part = Tally()
    for sentence, complete in sentences:
        if len(tally.texts) + len(part.texts) >= per_class:
            break
        text = _one_line(sentence)
        key = text.casefold()
        if not complete or not text:
            part.rejected["unfinished"] += 1
        elif not allow_missing_word and not words.holds(text, word):
            part.rejected["word missing"] += 1
        elif key in tally.texts or key in part.texts:
            part.rejected["repeated"] += 1
        else:
            part.texts[key] = text
    return {
        "first": tally.sampled,
        "texts": list(part.texts.values()),
        "sampled": part.sampled,
        "rejected": part.rejected,
    }


def from_file(path: str) -> list[Tally]:
    """Returns the tallies with which a prompt file was finished."""
    content = prompt_file.read(path)
    header, classes = content.header, range(len(content.class_names))
    try:
        rejected = header["rejected"]
        tallies = [Tally({}, {r: rejected[r][c] for r in REASONS}) for c in classes]
        for label, text in content.prompts:
            tallies[label].texts[text.casefold()] = text
        if {len(tally.texts) for tally in tallies} != {header["per_class"]}:
            raise ValueError("the number of prompts is not the header's")
        if header["sampled"] != [tally.sampled for tally in tallies]:
            raise ValueError("the counts do not add up")
        labels = [prompt.label for prompt in content.prompts]
        if labels != [*classes] * header["per_class"]:
            raise ValueError("the classes do not alternate")
    except (IndexError, KeyError, TypeError, ValueError) as e:
        raise RequestError(
            f"{path} was changed since it was made ({e}), so it cannot be made longer; "
            "restore it, or name another --out"
        ) from None
    return tallies


def shares(tallies: Sequence[Tally]) -> str:
    """Returns such as "812 of 1000 kept; word missing 15.0 %, repeated 3.8 %"."""
    sampled = sum(tally.sampled for tally in tallies)
    accepted = sum(len(tally.texts) for tally in tallies)
    counts = {r: sum(tally.rejected[r] for tally in tallies) for r in REASONS}
    parts = [f"{r} {100 * n / sampled:.1f} %" for r, n in counts.items() if n]
    return f"{accepted} of {sampled} kept" + ("; " + ", ".join(parts) if parts else "")


def _one_line(sentence: str) -> str:
    return " ".join(sentence.split())


class Journal:
    """An open journal. header: its first line, or None if it is empty."""

    def __init__(self, path: str, file: IO[bytes]):
        self.path = path
        content = file.read()
        self._size = content.rfind(b"\n") + 1  # a killed run may leave half a line
        lines = content[: self._size].splitlines()
        parsed = [self._parse(i, line) for i, line in enumerate(lines, start=1)]
        self.header: dict[str, Any] | None = parsed[0] if parsed else None
        self._batches = parsed[1:]

    def append(self, content: Mapping[str, Any]):
        """Writes a line: the header, or a batch with its label."""
        line = json.dumps(content, ensure_ascii=False).encode() + b"\n"
        os.truncate(self.path, self._size)  # only now: a refused journal stays as it is
        files.append(self.path, line)
        self._size += len(line)
        if self.header is None:
            self.header = dict(content)

    def replay(self, tallies: Sequence[Tally]):
        """Adds the batches that the tallies do not hold yet."""
        for number, batch in enumerate(self._batches, start=2):
            try:
                if batch["label"] not in range(len(tallies)):
                    raise ValueError("no such class")
                tally = tallies[batch["label"]]
                # A run that was killed at its end leaves both the file and the journal.
                if batch["first"] + batch["sampled"] > tally.sampled:
                    tally.add(batch)
            except (KeyError, TypeError, ValueError) as e:
                raise self._damaged(number) from e

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        with contextlib.suppress(ValueError):
            content = json.loads(line)
            if isinstance(content, dict):
                return content
        raise self._damaged(number)

    def _damaged(self, number: int) -> RequestError:
        return RequestError(
            f"{self.path}, line {number}, is damaged, or the prompt file that it "
            "continues is gone; delete it and start again"
        )


@contextlib.contextmanager
def opened(path: str) -> Generator[Journal]:
    """Opens or creates the journal and locks it against other processes."""
    try:
        file = open(path, "a+b")  # noqa: SIM115
    except OSError as e:
        raise RequestError(f"--out: {path} cannot be written: {e}") from None
    with file:
        # A file without a link: another run has just finished and removed it.
        if not files.try_lock(file) or not os.fstat(file.fileno()).st_nlink:
            raise RequestError(
                f"another run is writing {path}; wait for it, or name another --out"
            )
        file.seek(0)
        journal = Journal(path, file)
        try:
            yield journal
        finally:
            if journal.header is None:  # nothing was written
                os.remove(path)
