"""The trained classifier as one file that needs none of this package.

    python -m rsmatch_jax.export --workdir=DIR --out=FILE [--step=last|best|N]

FILE is made by jax.export for CPUs, CUDA GPUs and TPUs: uint8 images [b, S, S, 3] of
any number b in, probabilities float32 [b, K] out; the normalisation is in it, and of
the networks the encoder and the real head alone, with the EMA weights. It loads with
jax and flatbuffers; FILE.md shows how. FILE.json and FILE.md say what it is and where
it comes from.
Exit codes: 0 done, 1 it failed, 2 the request was wrong.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.export
import numpy as np

from rsmatch_jax import files
from rsmatch_jax.deploy import card, frozen, saved
from rsmatch_jax.errors import RequestError, exit_code
from rsmatch_jax.runs import workdir
from rsmatch_jax.terminal import Parser, say

PLATFORMS = ("cpu", "cuda", "tpu")
CARDS = (".json", ".md")


def exported(run: saved.Saved) -> jax.export.Exported:
    """The classifier of a run, uint8 [b, S, S, 3] -> float32 [b, K], for PLATFORMS."""
    part = frozen.parts(run)["classifier"]
    # On the host: what is closed over becomes part of the program.
    variables = jax.device_get(part.variables)

    def probabilities(images):
        return part.outputs(variables, images)[1]

    size = run.exp.dims.image_shape[0]
    shape = jax.export.symbolic_shape(f"b, {size}, {size}, 3")
    images = jax.ShapeDtypeStruct(shape, np.uint8)
    with _no_source_paths():
        return jax.export.export(jax.jit(probabilities), platforms=PLATFORMS)(images)


@contextlib.contextmanager
def _no_source_paths() -> Iterator[None]:
    """The file goes to others: it names no folders of this machine."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def write(run: saved.Saved, out: str) -> dict[str, Any]:
    """Writes `out` and its card beside it; returns the card. Raises: RequestError where
    they cannot be written."""
    data = bytes(exported(run).serialize())
    made = card.card(
        run,
        size=len(data),
        digest=hashlib.sha256(data).hexdigest(),
        platforms=PLATFORMS,
    )
    try:
        files.write_bytes(out, data)
        files.write_json(f"{out}.json", made)
        files.write_text(f"{out}.md", card.text(made, os.path.basename(out)))
    except OSError as e:
        raise RequestError(f"--out={out} cannot be written: {e}") from e
    return made


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 the request was wrong."""
    parser = Parser("export", __doc__)
    saved.add_flags(parser)
    parser.add_argument("--out", metavar="FILE", required=True)

    def command():
        args = parser.parse_args(argv)
        workdir.check_out(args.out, args.workdir, "", beside=CARDS)
        made = write(saved.load(args.workdir, args.step), args.out)
        say(
            f"{args.out}: {made['file']['bytes'] / 2**20:.1f} MiB, step "
            f"{made['training']['step']}, {len(made['classes'])} classes of "
            f"{made['dataset']}; beside it {args.out}.json and {args.out}.md"
        )

    return exit_code(command, "nothing was changed; the same command starts over")


if __name__ == "__main__":
    sys.exit(main())
