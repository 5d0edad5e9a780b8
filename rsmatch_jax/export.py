"""Exports the trained classifier as one file that does not need this package.

    rsmatch export --workdir=DIR --out=FILE [--step=last|best|N]
        [--trust_code]

jax.export makes FILE for CPUs, CUDA GPUs and TPUs. It maps uint8 images [b, S, S, 3],
any number b, to probabilities float32 [b, K]. It contains the normalisation, the
encoder and the real head with the EMA weights, and nothing else of the networks. It
loads with jax and flatbuffers, as FILE.md shows. FILE.json and FILE.md describe the
model and its origin. --trust_code lets a network that is not of this package run its
code.
Exit codes: 0 done, 1 it failed, 2 the request was wrong.
"""

import argparse
import contextlib
import hashlib
import os
import sys
from collections.abc import Generator, Sequence
from typing import Any

import jax
import jax.export
import numpy as np

from rsmatch_jax import files, terminal
from rsmatch_jax.deploy import card, frozen, saved
from rsmatch_jax.runs import workdir
from rsmatch_jax.terminal import Parser, say

PLATFORMS = ("cpu", "cuda", "tpu")
CARDS = (".json", ".md")


def exported(run: saved.Saved) -> jax.export.Exported:
    """Returns a run's classifier, uint8 [b, S, S, 3] -> float32 [b, K]."""
    part = frozen.parts(run)["classifier"]
    # On the host, because the program holds them as constants.
    variables = jax.device_get((part.params, part.stats))

    def probabilities(images):
        return part.outputs(variables, images)[1]

    size = run.exp.dims.image_shape[0]
    shape = jax.export.symbolic_shape(f"b, {size}, {size}, 3")
    images = jax.ShapeDtypeStruct(shape, np.uint8)
    with _no_source_paths():
        return jax.export.export(jax.jit(probabilities), platforms=PLATFORMS)(images)


@contextlib.contextmanager
def _no_source_paths() -> Generator[None]:
    """Keeps this machine's folders out of the file, which may be passed on."""
    # pyrefly: ignore[missing-attribute]: JAX adds the options at run time
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def write(run: saved.Saved, out: str) -> dict[str, Any]:
    """Writes `out` and returns its card; RequestError if a file cannot be written."""
    program = bytes(exported(run).serialize())
    digest = hashlib.sha256(program).hexdigest()
    content = card.card(run, size=len(program), digest=digest, platforms=PLATFORMS)
    with files.written_to("--out", out):
        files.write_bytes(out, program)
        files.write_json(f"{out}.json", content)
        files.write_text(f"{out}.md", card.text(content, os.path.basename(out)))
    return content


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 failed, 2 the request was wrong."""
    parser = Parser("export", __doc__)
    saved.add_flags(parser)
    parser.add_argument("--out", metavar="FILE", required=True)
    go_on = "nothing was changed; the same command starts over"
    return terminal.run_command(parser, argv, _run, go_on)


def _run(args: argparse.Namespace):
    workdir.check_out(args.out, args.workdir, "", beside=CARDS)
    run = saved.load(args.workdir, args.step, trust_code=args.trust_code)
    content = write(run, args.out)
    say(
        f"{args.out}: {content['file']['bytes'] / 2**20:.1f} MiB, step "
        f"{content['training']['step']}, {len(content['classes'])} classes of "
        f"{content['dataset']}; beside it {args.out}.json and {args.out}.md"
    )


if __name__ == "__main__":
    sys.exit(main())
