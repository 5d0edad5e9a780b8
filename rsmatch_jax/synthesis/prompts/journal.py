"""Prompts in the making: what every batch of sentences gave, kept so that a killed run
goes on where it was.

<out>.partial is a JSONL file: a line about the request, then one per batch. A batch is
decided by its class and its number among the class's batches, so how many sentences of
a class were looked at says where to go on. That stands in a finished prompt file, too:
a longer one begins there.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from rsmatch_jax import files
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.synthesis.prompts import words
from rsmatch_jax.synthesis.prompts.jsonl import PromptFile

REASONS = ("unfinished", "word missing", "repeated")


@dataclasses.dataclass
class Tally:
    """One class so far. texts: the sentences kept; sampled: how many were looked at;
    rejected: reason -> how many."""

    texts: list[str] = dataclasses.field(default_factory=list)
    seen: set[str] = dataclasses.field(default_factory=set)
    sampled: int = 0
    rejected: dict[str, int] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(REASONS, 0)
    )

    def add(self, batch: Mapping[str, Any]):
        """Counts what `sift` or a line of the stage says of a batch.

        Raises: ValueError, KeyError, TypeError where it does not follow what is here;
        then nothing is counted.
        """
        rejected = {reason: batch["rejected"][reason] for reason in REASONS}
        if batch["first"] != self.sampled or (
            batch["sampled"] != len(batch["texts"]) + sum(rejected.values())
        ):
            raise ValueError("a batch that does not follow")
        self.texts += batch["texts"]
        self.seen.update(text.casefold() for text in batch["texts"])
        self.sampled += batch["sampled"]
        for reason in REASONS:
            self.rejected[reason] += rejected[reason]

    def rest(
        self, batch: Sequence[tuple[str, bool]], looked_at: int
    ) -> Sequence[tuple[str, bool]]:
        """A batch without its first sentences, which filled the class when fewer were
        wanted. Raises: RunFailed where the batch is not what it was."""
        # What fills a class is the last that is looked at.
        if looked_at and _one_line(batch[looked_at - 1][0]) != self.texts[-1]:
            raise RunFailed(
                f"the model wrote {self.texts[-1]!r} here and does not do so again, so "
                "a longer file would not be what one run had made; name another --out"
            )
        return batch[looked_at:]


def of_finished(path: str, found: PromptFile) -> list[Tally]:
    """The tallies with which a prompt file was finished.

    Raises: RequestError where its lines are not what its header says.
    """
    header, classes = found.header, len(found.class_names)
    try:
        rejected = [
            {r: header["rejected"][r][c] for r in REASONS} for c in range(classes)
        ]
        tallies = [
            Tally(sampled=sampled, rejected=lost)
            for sampled, lost in zip(header["sampled"], rejected, strict=True)
        ]
        for prompt in found.prompts:
            tallies[prompt.label].texts.append(prompt.text)
        for tally in tallies:
            tally.seen = {text.casefold() for text in tally.texts}
            lost = sum(tally.rejected.values())
            if not header["per_class"] == len(tally.seen) == len(tally.texts):
                raise ValueError("not as many prompts as it says")
            if tally.sampled != len(tally.texts) + lost:
                raise ValueError("counts that do not add up")
        if [p.label for p in found.prompts] != [*range(classes)] * header["per_class"]:
            raise ValueError("classes that do not alternate")
    except (IndexError, KeyError, TypeError, ValueError) as e:
        raise RequestError(
            f"{path} was changed since it was made ({e}), so it cannot be made longer; "
            "restore it, or name another --out"
        ) from None
    return tallies


def _one_line(sentence: str) -> str:
    return " ".join(sentence.split())


def sift(
    tally: Tally,
    sentences: Iterable[tuple[str, bool]],
    word: str,
    wanted: int,
    allow_missing_word: bool,
) -> dict[str, Any]:
    """The sentences of a batch that a class keeps, up to `wanted` in all.

    A sentence is brought to one line. Returns {"first": how many of the class were
    looked at before, "texts": kept, "sampled": how many were looked at now,
    "rejected": {reason: how many}}; the tally is left as it is.
    """
    texts, rejected, sampled = {}, dict.fromkeys(REASONS, 0), 0
    for sentence, ended in sentences:
        if len(tally.texts) + len(texts) >= wanted:
            break
        sampled += 1
        text = _one_line(sentence)
        key = text.casefold()
        if not ended or not text:
            rejected["unfinished"] += 1
        elif not allow_missing_word and not words.holds(text, word):
            rejected["word missing"] += 1
        elif key in tally.seen or key in texts:
            rejected["repeated"] += 1
        else:
            texts[key] = text
    return {
        "first": tally.sampled,
        "texts": list(texts.values()),
        "sampled": sampled,
        "rejected": rejected,
    }


def next_class(tallies: Sequence[Tally], wanted: int) -> int | None:
    """Whose batch comes next: of the classes that lack sentences, that of which the
    fewest were looked at, the first of equals. None when all are full."""
    short = [c for c, tally in enumerate(tallies) if len(tally.texts) < wanted]
    return min(short, key=lambda c: (tallies[c].sampled, c)) if short else None


def shares(tallies: Sequence[Tally]) -> str:
    """Such as "812 of 1000 kept; word missing 15.0 %, repeated 3.8 %"."""
    sampled = sum(tally.sampled for tally in tallies)
    kept = sum(len(tally.texts) for tally in tallies)
    parts = []
    for reason in REASONS:
        count = sum(tally.rejected[reason] for tally in tallies)
        if count:
            parts.append(f"{reason} {100 * count / sampled:.1f} %")
    return f"{kept} of {sampled} kept" + ("; " + ", ".join(parts) if parts else "")


class Stage:
    """The open file of a run in the making. header: None until `begin`."""

    def __init__(self, path: str, file: IO[bytes]):
        self._file, self.path = file, path
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]  # a killed run ends in half a line
        self._whole: int | None = len(whole)
        lines = [self._parse(i, line) for i, line in enumerate(whole.splitlines(), 1)]
        self.header: dict[str, Any] | None = lines[0] if lines else None
        self._batches = lines[1:]

    def begin(self, header: Mapping[str, Any]):
        self._write(header)
        self.header = dict(header)

    def replay(self, tallies: Sequence[Tally]) -> int:
        """Adds the batches on file to the tallies of what is finished, and returns how
        many of them are new there."""
        new = 0
        for number, batch in enumerate(self._batches, start=2):
            try:
                if batch["label"] not in range(len(tallies)):
                    raise ValueError("no such class")
                tally = tallies[batch["label"]]
                # Killed between the finished file's last step and the stage's end.
                if batch["first"] + batch["sampled"] > tally.sampled:
                    tally.add(batch)
                    new += 1
            except (KeyError, TypeError, ValueError) as e:
                raise self._damaged(number) from e
        return new

    def append(self, label: int, batch: Mapping[str, Any]):
        self._write({"label": label, **batch})

    def _write(self, content: Mapping[str, Any]):
        line = json.dumps(content, ensure_ascii=False) + "\n"
        if (
            self._whole is not None
        ):  # at the first write: a refused stage stays as it is
            self._file.truncate(self._whole)
            self._whole = None
        self._file.write(line.encode())
        self._file.flush()

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise self._damaged(number)
        return content

    def _damaged(self, number: int) -> RequestError:
        return RequestError(
            f"{self.path}, line {number}, is damaged, or the file that it goes on from "
            "is gone; delete it and start again"
        )


@contextlib.contextmanager
def opened(path: str) -> Iterator[Stage]:
    """The stage at `path`, held by a lock that ends with the process.

    Raises: RequestError where it is damaged, cannot be made, or another run holds it.
    """
    try:
        file = open(path, "a+b")  # noqa: SIM115
    except OSError as e:
        raise RequestError(f"--out: {path} cannot be written: {e}") from None
    with file:
        # Without a link: the run that held it has ended, and removed it, just now.
        if not files.try_lock(file) or not os.fstat(file.fileno()).st_nlink:
            raise RequestError(
                f"another run is writing {path}; wait for it, or name another --out"
            )
        file.seek(0)
        stage = Stage(path, file)
        try:
            yield stage
        finally:
            if stage.header is None:  # nothing came of it
                os.remove(path)
