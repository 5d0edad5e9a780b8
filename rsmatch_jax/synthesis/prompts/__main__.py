"""Writes prompts: sentences about every class, by a word-to-sentence model.

    python -m rsmatch_jax.synthesis.prompts --dataset=cifar10 --per_class=1000 \\
      --out=prompts.jsonl

The model's input is each class name as a word. Sentences are accepted if they are
complete, contain the word and are new to their class. The same command continues a
killed run and ends with the same file. A larger --per_class makes a finished file
longer.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rsmatch_jax import files, terminal
from rsmatch_jax.data import class_names
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.prompts import journal, prompt_file, sentences, tally, words
from rsmatch_jax.terminal import say

GO_ON = "the same command again continues from here"
JOURNAL = ".partial"  # ends the journal's name, after that of the prompt file
_SHOWN = 10


def run(args: argparse.Namespace):
    """Writes the prompt file, or makes it longer."""
    checks.check_range("per_class", args.per_class, 1)
    checks.check_range("max_tries", args.max_tries, 1)
    fields = dataclasses.fields(sentences.Sampling)
    sampling = sentences.Sampling(**{f.name: getattr(args, f.name) for f in fields})
    checks.check_settings(sampling)
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
    finished = _finished_header(out, request)
    if finished and finished["per_class"] == args.per_class:
        say(f"{out} is finished already: {_total(request)} sentences; nothing to do")
        return
    if not os.path.isdir(os.path.dirname(out)):
        raise RequestError(f"--out={out}: there is no folder {os.path.dirname(out)}")
    with journal.opened(out + JOURNAL) as record:
        # Again, under the lock: another run may have written it in between.
        finished = _finished_header(out, request)
        if record.header is not None:
            _check_same(record.path, record.header, request)
        tallies = _tallies(out, finished, record, request)
        writer = sentences.load(args.model, sampling)
        made_with = {"made_with": writer.made_with}
        for path, header in ((out, finished), (record.path, record.header)):
            if header is not None:
                _check_same(path, header, made_with)
        if record.header is None:
            header = {**request, **made_with, "model_licence": writer.licence}
            record.append({k: (finished or header)[k] for k in header})
        _sample(args, request, writer, record, tallies)
        _finish(out, {**(record.header or {}), "per_class": args.per_class}, tallies)
        os.remove(record.path)
    lines = [f"{_total(request)} sentences in {out}"]
    for name, counts in zip(names, tallies, strict=True):
        lines.append(f"  {name}: {tally.shares([counts])}")
    say("\n".join([*lines, f"all: {tally.shares(tallies)}"]))


def _finished_header(out: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the header of the prompt file at `out`, or None if there is none. A file
    that is not the beginning of the requested one raises RequestError."""
    if not os.path.lexists(out):
        return None
    try:
        with open(out, encoding="utf-8") as f:
            header = json.loads(f.readline())
    except (OSError, ValueError):
        header = None
    if not isinstance(header, dict):
        raise RequestError(f"--out={out} exists and is no prompt file; name another")
    _check_same(out, header, request)
    count, requested = header.get("per_class"), request["per_class"]
    if type(count) is not int or count > requested:
        raise RequestError(
            f"--per_class={requested} is fewer than the {count} sentences a class that "
            f"{out} has; give --per_class={count} or more, or name another --out"
        )
    return header


def _tallies(
    out: str,
    finished: Mapping[str, Any] | None,
    record: journal.Journal,
    request: Mapping[str, Any],
) -> list[tally.Tally]:
    """Returns what the finished file and the journal hold together."""
    if finished is None:
        tallies = [tally.Tally() for _ in request["class_names"]]
    else:
        tallies = tally.from_file(out, prompt_file.read(out))
    record.replay(tallies)
    most = max(len(counts.texts) for counts in tallies)
    if most > request["per_class"]:
        raise RequestError(
            f"--per_class={request['per_class']} is fewer than the {most} sentences "
            f"that {record.path} already has of a class; give --per_class={most} or "
            "more, or name another --out"
        )
    return tallies


def _sample(
    args, request, writer, record: journal.Journal, tallies: Sequence[tally.Tally]
):
    """Samples batch after batch until every class is full."""
    done = sum(len(counts.texts) for counts in tallies)
    if done:
        say(f"going on from {done} of {_total(request)} sentences")
    progress = terminal.Progress("writing", "sentences", _total(request) - done, say)
    while (c := tally.next_class(tallies, args.per_class)) is not None:
        _stop_if_hopeless(args, request, record.path, tallies)
        word, counts = request["words"][c], tallies[c]
        number, judged = divmod(counts.sampled, args.batch_size)
        left = counts.skip(writer.write(word, (c, number)), judged)
        batch = tally.judge(counts, left, word, args.per_class, args.allow_missing_word)
        record.append({"label": c, **batch})
        counts.add(batch)
        if batch["texts"]:
            progress.advance(len(batch["texts"]), lambda: tally.shares(tallies))
        if c == len(tallies) - 1 and batch["first"] == 0:
            say(f"a batch of every class: {tally.shares(tallies)}")


def _stop_if_hopeless(args, request, path: str, tallies: Sequence[tally.Tally]):
    """Raises RunFailed if too few sentences pass for some classes.

    A class is judged after max_tries batches, once the other classes have caught up, so
    that one message names all such classes.
    """
    tries = args.max_tries
    short = [c for c, t in enumerate(tallies) if len(t.texts) < args.per_class]
    batches = [tallies[c].sampled // args.batch_size for c in short]
    if min(batches) < max(*batches, tries):
        return
    hopeless = [
        f"{request['class_names'][c]} ({request['words'][c]!r}): "
        + tally.shares([tallies[c]])
        for c in short
        if len(tallies[c].texts) * tries < tallies[c].sampled
    ]
    if hopeless:
        more = len(hopeless) - _SHOWN
        raise RunFailed(
            f"fewer than 1 sentence in {tries} passes for "
            + "; ".join(hopeless[:_SHOWN])
            + (f"; and {more} more classes" if more > 0 else "")
            + f". Continue with a higher --max_tries (now {tries}); or delete {path} "
            "and start again with another word (--words=FILE), another --model, "
            "another --temperature, or --allow_missing_word"
        )


def _finish(out: str, header: Mapping[str, Any], tallies: Sequence[tally.Tally]):
    """Writes the prompt file atomically; classes alternate."""
    how = {k: v for k, v in header.items() if k not in ("dataset", "class_names")}
    how["sampled"] = [counts.sampled for counts in tallies]
    how["rejected"] = {
        reason: [counts.rejected[reason] for counts in tallies]
        for reason in tally.REASONS
    }
    rows = zip(*(counts.texts for counts in tallies), strict=True)
    prompts = [
        prompt_file.Prompt(label, text)
        for row in rows
        for label, text in enumerate(row)
    ]
    dataset, names = header["dataset"], header["class_names"]
    files.write_text(out, prompt_file.text(dataset, names, how, prompts))


def _check_same(path: str, header: Mapping[str, Any], request: Mapping[str, Any]):
    """Raises RequestError that names each difference, but not per_class."""
    new = {key: value for key, value in request.items() if key != "per_class"}
    if changes := checks.changes({key: header.get(key) for key in new}, new):
        raise RequestError(
            f"{path} was made with other settings; delete it, or name another --out:\n"
            f"{changes}"
        )


def _total(request: Mapping[str, Any]) -> int:
    return request["per_class"] * len(request["class_names"])


def _parser() -> terminal.Parser:
    """Returns the parser of all flags; Sampling's fields are flags too."""
    parser = terminal.Parser("synthesis.prompts", __doc__)
    add = parser.add_argument
    add("--dataset", required=True, help="digits, a TFDS name or a dataset folder")
    add("--data_dir", help="where TFDS keeps its datasets (default TFDS's)")
    add("--per_class", type=int, required=True, help="sentences per class")
    add("--out", required=True, help="the prompt file, new or to be made longer")
    text = "hub id or folder of a sequence-to-sequence model (default %(default)s)"
    add("--model", default=sentences.DEFAULT_MODEL, help=text)
    text = "a line per class, in label order: the model's input, not the class names"
    add("--words", metavar="FILE", help=text)
    text = "accept sentences without the word of their class"
    add("--allow_missing_word", action="store_true", help=text)
    text = "give up if fewer than 1 sentence in this many passes (default 20)"
    add("--max_tries", type=int, default=20, help=text)
    for field in dataclasses.fields(sentences.Sampling):
        text = f"{field.metadata['help']} (default {field.default})"
        kind = type(field.default)
        add(f"--{field.name}", type=kind, default=field.default, help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return terminal.run_command(_parser(), argv, run, GO_ON, resumable=True)


if __name__ == "__main__":
    sys.exit(main())
