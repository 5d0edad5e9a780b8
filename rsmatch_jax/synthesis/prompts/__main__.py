"""Writes prompts: sentences about every class, by a word-to-sentence model.

    python -m rsmatch_jax.synthesis.prompts --dataset=cifar10 --per_class=1000 \\
      --out=prompts.jsonl

Every class name is fed to the model as a word. Kept are sentences that come to an end,
hold the word and are new to their class. The same command again goes on where a killed
one was, and ends with the same file; a larger --per_class makes a finished file longer.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rsmatch_jax import files, terminal
from rsmatch_jax.data import class_names
from rsmatch_jax.errors import RequestError, RunFailed, exit_code
from rsmatch_jax.synthesis.prompts import journal, jsonl, sentences, settings, words
from rsmatch_jax.synthesis.prompts.journal import Tally
from rsmatch_jax.synthesis.prompts.jsonl import Prompt
from rsmatch_jax.terminal import say

GO_ON = "the same command again goes on from here"
STAGE = ".partial"
_SHOWN = 10


def run(argv: Sequence[str]):
    """The whole command."""
    args, sampling = settings.parse(argv, __doc__)
    settings.check(args, sampling)
    names = class_names.class_names(args.dataset, data_dir=args.data_dir)
    request = {
        "dataset": args.dataset,
        "class_names": list(names),
        "words": list(words.of_classes(names, args.words)),
        "model": args.model,
        "per_class": args.per_class,
        "allow_missing_word": args.allow_missing_word,
        **dataclasses.asdict(sampling),
    }
    out = os.path.abspath(os.path.expanduser(args.out))
    finished = _finished(out, request)
    if finished and finished["per_class"] == args.per_class:
        _clear(out)
        say(f"{out} is finished already: {_total(request)} sentences; nothing to do")
        return
    if not os.path.isdir(os.path.dirname(out)):
        raise RequestError(f"--out={out}: there is no folder {os.path.dirname(out)}")
    with journal.opened(out + STAGE) as stage:
        finished = _finished(out, request)  # anew, for nobody else writes it now
        if stage.header is not None:
            _refuse_other(stage.path, stage.header, request)
        tallies = _tallies(out, finished, stage, request)
        writer = sentences.load(args.model, sampling)
        made_with = {"made_with": writer.made_with}
        for path, header in ((out, finished), (stage.path, stage.header)):
            if header is not None:
                _refuse_other(path, header, made_with)
        if stage.header is None:
            header = {**request, **made_with, "model_licence": writer.licence}
            stage.begin({k: (finished or header)[k] for k in header})
        _sample(args, request, writer, stage, tallies)
        _finish(out, {**stage.header, "per_class": args.per_class}, tallies)
        os.remove(stage.path)
    say(_summary(out, request, tallies))


def _finished(out: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The header of the file that is there already, None where there is none.

    Raises: RequestError unless it holds what is asked for, or the beginning of it.
    """
    if not os.path.lexists(out):
        return None
    header = _header(out)
    _refuse_other(out, header, request)
    there, wanted = header.get("per_class"), request["per_class"]
    if type(there) is not int or there > wanted:
        raise RequestError(
            f"--per_class={wanted} is fewer than the {there} sentences a class that "
            f"{out} has; give --per_class={there} or more, or name another --out"
        )
    return header


def _tallies(
    out: str,
    finished: Mapping[str, Any] | None,
    stage: journal.Stage,
    request: Mapping[str, Any],
) -> list[Tally]:
    """What the finished file and the stage amount to."""
    if finished is None:
        tallies = [Tally() for _ in request["class_names"]]
    else:
        tallies = journal.of_finished(out, jsonl.read(out))
    stage.replay(tallies)
    most = max(len(tally.texts) for tally in tallies)
    if most > request["per_class"]:
        raise RequestError(
            f"--per_class={request['per_class']} is fewer than the {most} sentences "
            f"that {stage.path} has of a class already; give --per_class={most} or "
            "more, or name another --out"
        )
    return tallies


def _clear(out: str):
    """Removes the stage of a finished file, left by a run that was killed between its
    two last steps. One that has gone further stays."""
    if os.path.exists(out + STAGE):
        with journal.opened(out + STAGE) as stage:
            tallies = journal.of_finished(out, jsonl.read(out))
            if stage.header is not None and not stage.replay(tallies):
                os.remove(stage.path)


def _sample(args, request, writer, stage, tallies):
    """Samples batch after batch until every class is full."""
    kept = sum(len(tally.texts) for tally in tallies)
    if kept:
        say(f"going on from {kept} of {_total(request)} sentences")
    progress = terminal.Progress("writing", "sentences", _total(request) - kept, say)
    while (c := journal.next_class(tallies, args.per_class)) is not None:
        _refuse_hopeless(args, request, stage.path, tallies)
        word, tally = request["words"][c], tallies[c]
        number, looked_at = divmod(tally.sampled, args.batch_size)
        rest = tally.rest(writer.write(word, (c, number)), looked_at)
        batch = journal.sift(tally, rest, word, args.per_class, args.allow_missing_word)
        stage.append(c, batch)
        tally.add(batch)
        if batch["texts"]:
            progress.advance(len(batch["texts"]), lambda: journal.shares(tallies))
        if c == len(tallies) - 1 and batch["first"] == 0:
            say(f"a batch of every class: {journal.shares(tallies)}")


def _refuse_hopeless(args, request, path: str, tallies: Sequence[Tally]):
    """Raises RunFailed for classes of which too few sentences pass.

    A class has max_tries batches before it is judged, and the others catch up first,
    so that all such classes are named at once.
    """
    tries = args.max_tries
    short = [c for c, t in enumerate(tallies) if len(t.texts) < args.per_class]
    batches = [tallies[c].sampled // args.batch_size for c in short]
    fewest, most = min(batches), max(batches)
    if fewest < max(most, tries):
        return
    hopeless = [
        f"{request['class_names'][c]} ({request['words'][c]!r}): "
        + journal.shares([tallies[c]])
        for c in short
        if len(tallies[c].texts) * tries < tallies[c].sampled
    ]
    if hopeless:
        more = len(hopeless) - _SHOWN
        raise RunFailed(
            f"fewer than 1 sentence in {tries} passes for "
            + "; ".join(hopeless[:_SHOWN])
            + (f"; and {more} classes more" if more > 0 else "")
            + f". Go on with a higher --max_tries (now {tries}); or delete {path} and "
            "start anew with another word (--words=FILE), another --model, another "
            "--temperature, or --allow_missing_word"
        )


def _finish(out: str, header: Mapping[str, Any], tallies: Sequence[Tally]):
    """Writes the prompt file wholly or not at all, classes in turn."""
    how = {k: v for k, v in header.items() if k not in ("dataset", "class_names")}
    how["sampled"] = [tally.sampled for tally in tallies]
    how["rejected"] = {
        reason: [tally.rejected[reason] for tally in tallies]
        for reason in journal.REASONS
    }
    lines = [jsonl.header_line(header["dataset"], header["class_names"], how)]
    for texts in zip(*(tally.texts for tally in tallies), strict=True):
        for label, text in enumerate(texts):
            lines.append(jsonl.prompt_line(Prompt(label, text)))
    files.write_bytes(out, "".join(lines).encode())


def _refuse_other(path: str, found: Mapping[str, Any], wanted: Mapping[str, Any]):
    """Raises RequestError naming what in a file's header is not as wanted. The number
    of sentences may differ."""
    differing = []
    for key, value in wanted.items():
        there = found.get(key)
        if key == "per_class":
            continue
        if isinstance(value, dict) and isinstance(there, dict):
            inner = [k for k, v in value.items() if there.get(k) != v]
            differing += [f"{k} {there.get(k)!r}, now {value[k]!r}" for k in inner]
        elif there != value:
            differing.append(f"{key} {_brief(there)}, now {_brief(value)}")
    if differing:
        raise RequestError(
            f"{path} was made otherwise ({'; '.join(differing)}); delete it, or name "
            "another --out"
        )


def _header(path: str) -> dict[str, Any]:
    """The first line of a file that is there already."""
    try:
        with open(path, encoding="utf-8") as f:
            header = json.loads(f.readline())
    except (OSError, ValueError):
        header = None
    if not isinstance(header, dict):
        raise RequestError(f"--out={path} exists and is no prompt file; name another")
    return header


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _total(request: Mapping[str, Any]) -> int:
    return request["per_class"] * len(request["class_names"])


def _summary(out: str, request: Mapping[str, Any], tallies: Sequence[Tally]) -> str:
    lines = [
        f"  {name}: {journal.shares([tally])}"
        for name, tally in zip(request["class_names"], tallies, strict=True)
    ]
    return "\n".join(
        [
            f"{_total(request)} sentences in {out}",
            *lines,
            f"all: {journal.shares(tallies)}",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 the request was wrong, 75 stopped by a signal."""

    def command():
        try:
            run(sys.argv[1:] if argv is None else argv)
        except OSError as e:
            raise RunFailed(f"{e}; {GO_ON}") from e

    return exit_code(command, GO_ON, resumable=True)


if __name__ == "__main__":
    sys.exit(main())
