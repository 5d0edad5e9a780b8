"""Accepts and counts the sentences of each class."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.synthesis.prompts import words
from rsmatch_jax.synthesis.prompts.prompt_file import PromptFile

REASONS = ("unfinished", "word missing", "repeated")


@dataclasses.dataclass
class Tally:
    """The state of one class.

    texts: accepted sentences. sampled: number of judged ones. rejected: by reason."""

    texts: list[str] = dataclasses.field(default_factory=list)
    seen: set[str] = dataclasses.field(default_factory=set)
    sampled: int = 0
    rejected: dict[str, int] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(REASONS, 0)
    )

    def add(self, batch: Mapping[str, Any]):
        """Counts a batch from `judge` or from the journal.

        A batch that does not continue this tally raises ValueError, KeyError or
        TypeError and changes nothing.
        """
        rejected = {reason: batch["rejected"][reason] for reason in REASONS}
        if batch["first"] != self.sampled or (
            batch["sampled"] != len(batch["texts"]) + sum(rejected.values())
        ):
            raise ValueError("a batch that does not follow")
        self.texts += batch["texts"]
        self.seen.update(text.casefold() for text in batch["texts"])
        self.sampled += batch["sampled"]
        self.rejected = {r: self.rejected[r] + n for r, n in rejected.items()}

    def skip(
        self, batch: Sequence[tuple[str, bool]], count: int
    ) -> Sequence[tuple[str, bool]]:
        """Drops the first `count` sentences of a batch, which are judged already. The
        last of them must be the last accepted one, else it raises RunFailed."""
        # A shorter file stopped in this batch, at the sentence that filled the class.
        if count and _one_line(batch[count - 1][0]) != self.texts[-1]:
            raise RunFailed(
                f"the model wrote {self.texts[-1]!r} here and does not do so again, so "
                "a longer file would not equal one made at once; name another --out"
            )
        return batch[count:]


def judge(
    tally: Tally,
    sentences: Iterable[tuple[str, bool]],
    word: str,
    per_class: int,
    allow_missing_word: bool,
) -> dict[str, Any]:
    """Accepts the sentences of a batch until a class has `per_class`.

    A sentence becomes one line. The tally does not change. sentences: (text, whether it
    is complete) each.

    Returns:
        {"first": sentences of the class judged before, "texts": accepted, "sampled":
        sentences judged now, "rejected": {reason: count}}.
    """
    texts, rejected, sampled = {}, dict.fromkeys(REASONS, 0), 0
    for sentence, complete in sentences:
        if len(tally.texts) + len(texts) >= per_class:
            break
        sampled += 1
        text = _one_line(sentence)
        key = text.casefold()
        if not complete or not text:
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


def from_file(path: str, content: PromptFile) -> list[Tally]:
    """Returns the tallies with which a prompt file was finished."""
    header, classes = content.header, len(content.class_names)
    try:
        tallies = [
            Tally(sampled=n, rejected={r: header["rejected"][r][c] for r in REASONS})
            for c, n in zip(range(classes), header["sampled"], strict=True)
        ]
        for prompt in content.prompts:
            tallies[prompt.label].texts.append(prompt.text)
        for tally in tallies:
            tally.seen = {text.casefold() for text in tally.texts}
            if not header["per_class"] == len(tally.seen) == len(tally.texts):
                raise ValueError("the number of prompts is not the header's")
            if tally.sampled != len(tally.texts) + sum(tally.rejected.values()):
                raise ValueError("the counts do not add up")
        labels = [prompt.label for prompt in content.prompts]
        if labels != [*range(classes)] * header["per_class"]:
            raise ValueError("the classes do not alternate")
    except (IndexError, KeyError, TypeError, ValueError) as e:
        raise RequestError(
            f"{path} was changed since it was made ({e}), so it cannot be made longer; "
            "restore it, or name another --out"
        ) from None
    return tallies


def next_class(tallies: Sequence[Tally], per_class: int) -> int | None:
    """Returns the unfinished class with the fewest judged sentences, or None."""
    short = [c for c, tally in enumerate(tallies) if len(tally.texts) < per_class]
    return min(short, key=lambda c: (tallies[c].sampled, c)) if short else None


def shares(tallies: Sequence[Tally]) -> str:
    """Returns such as "812 of 1000 kept; word missing 15.0 %, repeated 3.8 %"."""
    sampled = sum(tally.sampled for tally in tallies)
    accepted = sum(len(tally.texts) for tally in tallies)
    counts = {r: sum(tally.rejected[r] for tally in tallies) for r in REASONS}
    parts = [f"{r} {100 * n / sampled:.1f} %" for r, n in counts.items() if n]
    return f"{accepted} of {sampled} kept" + ("; " + ", ".join(parts) if parts else "")


def _one_line(sentence: str) -> str:
    return " ".join(sentence.split())
