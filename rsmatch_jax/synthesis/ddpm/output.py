"""The folders of the diffusion model's command: unfinished work and the pool.

Unfinished work lies in OUT/.staging: training.json and checkpoints/ (with --model_dir
there), drawing.json and drawn/, the pictures drawn so far.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data import sources
from rsmatch_jax.data.stores import arrays, dataset_folder
from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis import checks
from rsmatch_jax.synthesis.ddpm.pool import GENERATOR
from rsmatch_jax.synthesis.ddpm.settings import DRAWING

DIGITS_SOURCE = (
    "Drawn by a diffusion model trained on scikit-learn's digits: the test part of "
    "'Optical Recognition of Handwritten Digits' (E. Alpaydin, C. Kaynak, 1998, UCI "
    "Machine Learning Repository, doi 10.24432/C50P49), CC BY 4.0."
)


def check_out(out: str):
    """Raises RequestError unless a pool can be started or continued in `out`."""
    if arrays.is_array_folder(out) or dataset_folder.is_dataset(out):
        raise RequestError(
            f"--out={out} holds a pool already; remove it or name another"
        )
    checks.check_pool_folder(out)


def claim_training(
    folder: str, data: arrays.ImageArrays, settings: Mapping[str, Any], flag: str
):
    """Notes in `folder` what is trained there; refuses a folder of other training."""
    digest = hashlib.blake2b(np.asarray(data.images).tobytes(), digest_size=8)
    digest.update(data.labels.tobytes())
    content = {
        "dataset": data.name,
        "images": list(data.images.shape),
        "digest": digest.hexdigest(),
        **{k: v for k, v in settings.items() if k not in DRAWING},
    }
    path = os.path.join(folder, "training.json")
    earlier = files.read_json(path)
    if earlier is not None and earlier != content:
        raise RequestError(
            f"{flag}: {folder} holds other training:\n"
            f"{checks.changes(earlier, content)}"
            "give the same flags, name another folder, or delete this one"
        )
    files.write_json(path, content)


def claim_drawing(staging: str, settings: Mapping[str, Any]) -> str:
    """Returns the folder of drawn pictures, without those of other settings.

    They are removed, not refused, because training takes most of the time.
    """
    folder = os.path.join(staging, "drawn")
    path = os.path.join(staging, "drawing.json")
    if files.read_json(path) != settings:
        shutil.rmtree(folder, ignore_errors=True)
        files.write_json(path, settings)
    os.makedirs(folder, exist_ok=True)
    return folder


def origin(dataset: str, data_dir: str | None) -> dict[str, str]:
    """Returns the source of the pictures and their licence, as text."""
    if dataset == "digits":
        return {"source": DIGITS_SOURCE, "licence": "CC BY 4.0"}
    folder = sources.prepared_folder(dataset, data_dir)
    info = dataset_folder.inspect(folder).info if folder else {}
    name = f"{info['name']} {info['version']}" if info else dataset
    about = f"{info.get('description', '')} {info.get('citation', '')}".split()
    licence = info.get("redistributionInfo", {}).get("license")
    return {
        "source": " ".join([f"Drawn by a diffusion model trained on {name}.", *about]),
        "licence": licence or f"that of the training images, {name}",
    }


def write_tfds(
    out: str, staging: str, pool: arrays.ImageArrays, report: dict[str, Any], tf_write
):
    """Writes the pool as a TFDS dataset folder with a pool.json.

    It is written below `staging` and moved, its description last, so that an incomplete
    pool is never taken for a complete one. tf_write: that module.
    """
    parent = os.path.join(staging, "pool")
    shutil.rmtree(parent, ignore_errors=True)
    folder = os.path.join(parent, os.path.basename(out))
    images = arrays.to_rgb(np.asarray(pool.images))
    size = images.shape[1]
    terms = {key: report.pop(key) for key in ("licence", "source")}
    examples = (
        tf_write.Example(image, label, id=f"{GENERATOR}_{i:06d}", generator=0)
        for i, (image, label) in enumerate(
            zip(images, pool.labels.tolist(), strict=True)
        )
    )
    tf_write.write(
        folder,
        {"train": examples},
        class_names=pool.class_names,
        size=(size, size),
        generator_names=pool.generator_names,
        pool={
            "generators": {GENERATOR: {"how": report, "images": len(images)}},
            "resize": {"kernel": None, "size": size, "resized": 0},
            "exact_duplicates": report["duplicates_dropped"],
            "exact_duplicates_dropped": report["duplicates_dropped"],
            **terms,
        },
        description=terms["source"],
        licence=terms["licence"],
    )
    for name in sorted(os.listdir(folder), key=lambda n: n == dataset_folder.INFO):
        os.replace(os.path.join(folder, name), os.path.join(out, name))
