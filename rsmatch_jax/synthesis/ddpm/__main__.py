"""Makes a synthetic pool with a small class-conditional diffusion model.

    rsmatch ddpm --dataset=digits --out=DIR
    rsmatch ddpm --dataset=cifar10 --out=DIR --dtype=bfloat16

Trains a U-Net on the dataset's training split, then draws and saves a class-balanced
pool. Strong guidance makes pictures clearer than real ones, like those of text-to-image
models. The same seed, machine and versions make the same pool. The same command
continues an interrupted run from DIR/.staging: training.json and checkpoints/ (or from
these in --model_dir), drawing.json and the pictures in drawn/.

--mix draws each picture between its class y and a random second one z, by the mean of
both noise predictions: (1 + w) (eps(x, y) + eps(x, z)) / 2 - w eps(x), w = --guidance.
The picture's label is y; z is kept beside the pool (second_labels.npy, or in pool.json)
for synthesis.look.

--difficulty=MU[,SIGMA] draws pictures that a classifier finds as hard as that: s = 1 -
p(y | picture) is normal with this mean and deviation (default 0.1), clipped to 0 to 1;
--difficulty=uniform draws s over all of it. The trained model is fine-tuned first, see
ddpm/difficulty.py and ddpm/adapters.py. The pool keeps s (difficulty.npy, or in
pool.json) and what another classifier measures (measured_difficulty).
"""

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rsmatch_jax import files, terminal
from rsmatch_jax.data import sources
from rsmatch_jax.data.stores import arrays, dataset_folder
from rsmatch_jax.errors import RequestError, RunFailed
from rsmatch_jax.runs import workdir
from rsmatch_jax.runtime import compilation
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.ddpm import adapters, denoiser, difficulty
from rsmatch_jax.synthesis.ddpm import pool as ddpm_pool
from rsmatch_jax.synthesis.ddpm import settings as ddpm_settings
from rsmatch_jax.synthesis.ddpm.settings import Settings, Tuning
from rsmatch_jax.terminal import say

DIGITS_LEVELS = 17  # grey levels of the scans; the pictures get the same
PACKAGES = ("jax", "flax", "optax", "numpy", "scikit-learn")
GO_ON = "the same command goes on from what is saved in .staging below --out"


def run(args: argparse.Namespace, argv: Sequence[str]):
    """Trains, draws and saves. argv: the flags, for the pool's report."""
    start = time.monotonic()
    devices = jax.local_devices()
    ddpm_settings.check(args, len(devices))
    out, tf_write = _empty_place(args), _tfds_writer(args)
    data = _data(args)
    described = _described(data)
    per_class = len(data.labels) // data.num_classes
    settings = ddpm_settings.settle(args, data.images.shape[1], per_class)
    tuning = ddpm_settings.settle_tuning(args, data.images.shape[1])
    origin = ddpm_pool.origin(args.dataset, args.data_dir)
    compilation.use_cache(args.cache_dir)

    staging, model, locked = _places(args, out)
    with contextlib.ExitStack() as locks:
        for folder, flag in locked.items():
            locks.enter_context(checks.locked(folder, flag))
        _claim_training(model, described, dataclasses.asdict(settings), locked[model])
        values, conditions = _conditions(args, settings, tuning, data)
        drawn = _claim_drawing(staging, {**described, **values})
        state, losses = denoiser.train(settings, data, devices, model, args.save_every)
        params, tuned = state.ema, None
        if args.difficulty:
            folder = os.path.join(model, "difficulty")
            both = {**dataclasses.asdict(settings), **dataclasses.asdict(tuning)}
            _claim_training(folder, described, both, locked[model])
            tuned = adapters.tune(
                settings, tuning, params, data, devices, folder, args.save_every
            )
            params = tuned.params
        levels = DIGITS_LEVELS if args.dataset == "digits" else 256
        guidance = tuning.difficulty_guidance
        pool, dropped, columns = ddpm_pool.draw_pool(
            settings, params, data, levels, devices, drawn, conditions, guidance
        )
        report = {
            "command": f"rsmatch ddpm {shlex.join(argv)}",
            **_made(values, losses, dropped),
            "device": devices[0].device_kind,
            **origin,
        }
        if tuned:
            columns[difficulty.MEASURED], agreement = difficulty.measure(
                data, tuned.scores, pool, settings.seed
            )
            report["difficulty"] = {**tuned.about, "agreement": agreement}
        if tf_write:
            ddpm_pool.write_tfds(out, staging, pool, report, columns, tf_write)
        else:
            arrays.save(out, pool, report, columns)
        shutil.rmtree(staging)
    count, seconds = len(pool.labels), time.monotonic() - start
    say(
        f"{count} pictures of {pool.num_classes} classes in {out}, {seconds:.0f} s; "
        f"{dropped} duplicates dropped"
    )


def _data(args: argparse.Namespace) -> arrays.ImageArrays:
    """Returns the images to train on."""
    with checks.data_flags("--dataset", args.data_dir):
        data, _ = sources.load_real(
            args.dataset, data_dir=args.data_dir, cache_dir=args.cache_dir
        )
    ddpm_settings.check_data(data, args)
    return data


def _tfds_writer(args: argparse.Namespace):
    """Returns the writer of a TFDS folder, None for arrays."""
    if args.format == "tfds" or (not args.format and args.dataset != "digits"):
        return checks.tfds_writer(", or choose --format=arrays")
    return None


def _empty_place(args: argparse.Namespace) -> str:
    """Returns the pool's path; raises RequestError if there is one already."""
    out = os.path.abspath(os.path.expanduser(args.out))
    if arrays.is_array_folder(out) or dataset_folder.is_dataset(out):
        raise RequestError(
            f"--out={out} holds a pool already; remove it or name another"
        )
    checks.check_pool_folder(out, "ddpm")
    return out


def _places(args: argparse.Namespace, out: str) -> tuple[str, str, dict[str, str]]:
    """Returns the folders of unfinished work and of the model, and the flag of each."""
    staging = os.path.join(out, dataset_folder.STAGING)
    locked = {staging: f"--out={args.out}"}
    if not args.model_dir:
        return staging, staging, locked
    model = os.path.abspath(os.path.expanduser(args.model_dir))
    workdir.check_writable(model, "--model_dir")
    locked.setdefault(model, f"--model_dir={args.model_dir}")
    return staging, model, locked


def _made(
    settings: Mapping[str, Any], losses: Sequence[float], dropped: int
) -> dict[str, Any]:
    return {
        "settings": settings,
        "final_loss": round(float(np.mean(losses[-denoiser.RECENT :])), 4),
        "duplicates_dropped": dropped,
        "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
    }


def _conditions(
    args: argparse.Namespace,
    settings: Settings,
    tuning: Tuning,
    data: arrays.ImageArrays,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns all settings of the drawing, and what each picture is drawn with besides
    its class."""
    values, conditions = dataclasses.asdict(settings), {}
    if args.mix:
        values["mix"] = True
        conditions["second_labels"] = ddpm_pool.second_labels(settings, data)
    choice = ddpm_settings.wanted_difficulty(args.difficulty)
    if choice:
        values |= {**dataclasses.asdict(tuning), "difficulty": choice}
        conditions["difficulty"] = difficulty.wanted(settings, data, choice)
    return values, conditions


def _described(data: arrays.ImageArrays) -> dict[str, Any]:
    """Returns what tells a dataset from all others."""
    digest = hashlib.blake2b(np.asarray(data.images).tobytes(), digest_size=8)
    digest.update(data.labels.tobytes())
    shape = list(data.images.shape)
    return {"dataset": data.name, "images": shape, "digest": digest.hexdigest()}


def _claim_training(
    folder: str, data: Mapping[str, Any], settings: Mapping[str, Any], flag: str
):
    """Notes in `folder` what is trained there, and on which data; refuses a folder of
    other training."""
    training = {k: v for k, v in settings.items() if k not in ddpm_settings.DRAWING}
    content = {**data, **training}
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "training.json")
    earlier = files.read_json(path)
    if earlier is not None and earlier != content:
        raise RequestError(
            f"{flag}: {folder} holds a model that is trained in another way:\n"
            f"{checks.changes(earlier, content)}"
            "give the same flags, name another folder, or delete this one"
        )
    files.write_json(path, content)


def _claim_drawing(staging: str, settings: Mapping[str, Any]) -> str:
    """Returns the folder of drawn pictures, without those of other settings, which
    include the data. They are removed, not refused, because training takes most of the
    time."""
    folder = os.path.join(staging, "drawn")
    path = os.path.join(staging, checks.STAGED["ddpm"])
    if files.read_json(path) != settings:
        shutil.rmtree(folder, ignore_errors=True)
        files.write_json(path, settings)
    os.makedirs(folder, exist_ok=True)
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv

    def command(args: argparse.Namespace):
        try:
            run(args, argv)
        except jax.errors.JaxRuntimeError as e:  # such as a full device memory
            full = "RESOURCE_EXHAUSTED" in str(e)
            way_out = "; lower --batch_size or --sampling_batch" if full else ""
            raise RunFailed(f"{e}{way_out}; {GO_ON}") from e

    parser = ddpm_settings.parser(__doc__)
    return terminal.run_command(parser, argv, command, GO_ON, resumable=True)


if __name__ == "__main__":
    sys.exit(main())
