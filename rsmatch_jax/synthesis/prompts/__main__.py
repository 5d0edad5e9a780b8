"""Writes prompts: sentences about every class, by a word-to-sentence model.

    rsmatch prompts --dataset=cifar10 --per_class=1000 \\
      --out=prompts.jsonl

The model gets the class name, as a word, and nothing else. A sentence is accepted if
it is complete, contains the word and is new in its class. After a kill the same command
continues and ends with the same file. A larger --per_class makes a finished file
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
from rsmatch_jax.progress import Progress
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.prompts import journal, prompt_file, sentences, words
from rsmatch_jax.terminal import say

GO_ON = "the same command again continues from here"
JOURNAL = ".partial"  # added to the prompt file's name
_SHOWN = 10  # classes named in one message


def run(args: argparse.Namespace):
    """Writes the prompt file, or makes it longer."""
    checks.check_range("per_class", args.per_class, 1)
    checks.check_range("max_tries", args.max_tries, 1)
    fields = dataclasses.fields(sentences.Sampling)
    sampling = sentences.Sampling(**{f.name: getattr(args, f.name) for f in fields})
    checks.check_settings(sampling)
    with checks.data_flags("--dataset", args.data_dir):
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
    total = args.per_class * len(names)
    finished = _finished_header(out, request)
    if finished and finished.get("per_class") == args.per_class:
        say(f"{out} is finished already: {total} sentences; nothing to do")
        return
    if not os.path.isdir(os.path.dirname(out)):
        raise RequestError(f"--out={out}: there is no folder {os.path.dirname(out)}")
    with journal.opened(out + JOURNAL) as record:
        # Again under the lock: another run may have finished the file in between.
        finished = _finished_header(out, request)
        if record.header is not None:
            _check_same(record.path, record.header, request)
        tallies = [journal.Tally() for _ in names]
        if finished is not None:
            tallies = journal.from_file(out)
        record.replay(tallies)
        most = max(len(counts.texts) for counts in tallies)
        _check_length(record.path, most, args.per_class)
        write, made = sentences.load(args.model, sampling)
        made_with = {"made_with": made["made_with"]}  # the licence may change
        for path, header in ((out, finished), (record.path, record.header)):
            if header is not None:
                _check_same(path, header, made_with)
        if record.header is None:
            header = {**request, **made}
            record.append({k: (finished or header)[k] for k in header})
        _sample(args, request, write, record, tallies)
        _finish(out, {**(record.header or {}), "per_class": args.per_class}, tallies)
        os.remove(record.path)
    lines = [f"{total} sentences in {out}"]
    for name, counts in zip(names, tallies, strict=True):
        lines.append(f"  {name}: {journal.shares([counts])}")
    say("\n".join([*lines, f"all: {journal.shares(tallies)}"]))


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
    if not isinstance(header, dict) or type(header.get("per_class", 0)) is not int:
        raise RequestError(f"--out={out} exists and is no prompt file; name another")
    _check_same(out, header, request)
    _check_length(out, header.get("per_class", 0), request["per_class"])
    return header


def _check_length(path: str, count: int, per_class: int):
    """Raises RequestError if a file has more sentences of a class than per_class."""
    if count > per_class:
        raise RequestError(
            f"--per_class={per_class} is fewer than the {count} sentences of a class "
            f"that {path} has; give --per_class={count} or more, or name another --out"
        )


def _sample(
    args, request, write, record: journal.Journal, tallies: Sequence[journal.Tally]
):
    """Samples batch after batch until every class is full."""
    done = sum(len(counts.texts) for counts in tallies)
    total = args.per_class * len(tallies)
    if done:
        say(f"going on from {done} of {total} sentences")
    with Progress("writing", "sentences", total - done, say) as progress:
        while short := [
            c for c, t in enumerate(tallies) if len(t.texts) < args.per_class
        ]:
            _stop_if_hopeless(args, request, record.path, tallies, short)
            c = min(short, key=lambda c: tallies[c].sampled)
            word, counts = request["words"][c], tallies[c]
            number, judged = divmod(counts.sampled, args.batch_size)
            left = counts.skip(write(word, (c, number)), judged)
            batch = journal.judge(
                counts, left, word, args.per_class, args.allow_missing_word
            )
            record.append({"label": c, **batch})
            counts.add(batch)
            if batch["texts"]:
                progress.advance(len(batch["texts"]), lambda: journal.shares(tallies))
            if c == len(tallies) - 1 and batch["first"] == 0:
                say(f"a batch of every class: {journal.shares(tallies)}")


def _stop_if_hopeless(args, request, path: str, tallies, short: Sequence[int]):
    """Raises RunFailed if too few sentences pass for some of the classes `short`.

    It waits until every unfinished class has had max_tries batches and as many as the
    others, so that one message names all such classes.
    """
    tries = args.max_tries
    batches = [tallies[c].sampled // args.batch_size for c in short]
    if min(batches) < max(*batches, tries):
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
            + (f"; and {more} more classes" if more > 0 else "")
            + f". Continue with a higher --max_tries (now {tries}); or delete {path} "
            "and start again with another word (--words=FILE), another --model, "
            "another --temperature, or --allow_missing_word"
        )


def _finish(out: str, header: Mapping[str, Any], tallies: Sequence[journal.Tally]):
    """Writes the prompt file atomically; classes alternate."""
    how = {**header, "sampled": [counts.sampled for counts in tallies]}
    how["rejected"] = {
        reason: [counts.rejected[reason] for counts in tallies]
        for reason in journal.REASONS
    }
    rows = zip(*(counts.texts.values() for counts in tallies), strict=True)
    prompts = [prompt_file.Prompt(*pair) for row in rows for pair in enumerate(row)]
    dataset, names = header["dataset"], header["class_names"]
    files.write_text(out, prompt_file.text(dataset, names, how, prompts))


def _check_same(path: str, header: Mapping[str, Any], request: Mapping[str, Any]):
    """Raises RequestError if settings other than per_class differ; names each."""
    new = {key: value for key, value in request.items() if key != "per_class"}
    if changes := checks.changes({key: header.get(key) for key in new}, new):
        raise RequestError(
            f"{path} was made with other settings; delete it, or name another --out:\n"
            f"{changes}"
        )


def _parser() -> terminal.Parser:
    """Returns the parser of all flags; Sampling's fields are flags too."""
    parser = terminal.Parser("prompts", __doc__)
    add = parser.add_argument
    add("--dataset", required=True, help="digits, a TFDS name or a dataset folder")
    add("--data_dir", help="where TFDS keeps its datasets (default TFDS's)")
    add("--per_class", type=int, required=True, help="sentences per class")
    add("--out", required=True, help="the prompt file, new or to be made longer")
    text = "hub id or folder of a sequence-to-sequence model (default %(default)s)"
    add("--model", default=sentences.DEFAULT_MODEL, help=text)
    text = "file with the model's input for each class, a line per class in label order"
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
