"""The diffusion model's folders: unfinished work, and the pool that comes of it.

Unfinished work lies in OUT/.staging: training.json and checkpoints/ (elsewhere with
--model_dir), drawing.json and drawn/, the pictures drawn so far.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data.stores import arrays, dataset_folder
from rsmatch_jax.errors import RequestError
from rsmatch_jax.runs import workdir
from rsmatch_jax.synthesis.ddpm.settings import DRAWING

STAGING = ".staging"
GENERATOR = "ddpm"
TRAINING_FILE, DRAWING_FILE, DRAWN = "training.json", "drawing.json", "drawn"
DIGITS_SOURCE = (
    "Drawn by a diffusion model trained on scikit-learn's digits: the test part of "
    "'Optical Recognition of Handwritten Digits' (E. Alpaydin, C. Kaynak, 1998, UCI "
    "Machine Learning Repository, doi 10.24432/C50P49), CC BY 4.0."
)


def check_out(out: str):
    """Raises RequestError unless a pool can be made, or gone on with, in `out`."""
    workdir.check_writable(out, "--out")
    if arrays.is_array_folder(out) or dataset_folder.is_dataset(out):
        raise RequestError(
            f"--out={out} holds a pool already; remove it or name another"
        )
    content = os.listdir(out) if os.path.isdir(out) else []
    if content and STAGING not in content:
        raise RequestError(
            f"--out={out} is not empty and holds no unfinished pool; name another"
        )


@contextlib.contextmanager
def locked(folder: str, flag: str) -> Iterator[None]:
    """Makes the folder and keeps other processes out of it."""
    os.makedirs(folder, exist_ok=True)
    taken = (
        f"{flag}: another process is at work in {folder}; wait for it, or name another "
        "folder"
    )
    with files.locked(os.path.join(folder, workdir.LOCK_FILE), taken):
        yield


def claim_training(
    folder: str, data: arrays.ImageArrays, settings: Mapping[str, Any], flag: str
):
    """Notes in `folder` what is trained there.

    Raises RequestError where it holds the training of something else.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(data.images), digest_size=8)
    digest.update(np.ascontiguousarray(data.labels))
    content = {
        "dataset": data.name,
        "images": list(data.images.shape),
        "digest": digest.hexdigest(),
        **{k: v for k, v in settings.items() if k not in DRAWING},
    }
    earlier = _read(os.path.join(folder, TRAINING_FILE))
    if earlier is not None and earlier != content:
        differing = "\n".join(
            f"  {key}: {old} there, {new} here"
            for key, old, new in workdir.differences(earlier, content)
        )
        raise RequestError(
            f"{flag}: {folder} holds other training:\n{differing}\ngive what is there, "
            "name another folder, or delete this one"
        )
    files.write_json(os.path.join(folder, TRAINING_FILE), content)


def claim_drawing(staging: str, settings: Mapping[str, Any]):
    """Notes what is drawn; pictures drawn otherwise are removed, for the model itself
    is what took long."""
    path = os.path.join(staging, DRAWING_FILE)
    if _read(path) != settings:
        shutil.rmtree(os.path.join(staging, DRAWN), ignore_errors=True)
        files.write_json(path, dict(settings))


def keeper(staging: str) -> Callable[[int, Callable[[], np.ndarray]], np.ndarray]:
    """Returns keep(number, draw): what draw() gives for chunk `number`, or what it
    gave an earlier process."""
    folder = os.path.join(staging, DRAWN)
    os.makedirs(folder, exist_ok=True)

    def keep(number: int, draw: Callable[[], np.ndarray]) -> np.ndarray:
        path = os.path.join(folder, f"{number:06d}.npy")
        if os.path.exists(path):
            try:
                return np.load(path, allow_pickle=False)
            except (EOFError, ValueError) as e:
                raise RequestError(
                    f"{path} is damaged ({e}); delete it, then it is drawn again"
                ) from None
        images = draw()
        with open(f"{path}.tmp", "wb") as f:
            np.save(f, images, allow_pickle=False)
        os.replace(f"{path}.tmp", path)
        return images

    return keep


def origin(dataset: str, data_dir: str | None) -> tuple[str, str]:
    """Where the pictures come from, and under what licence, as text."""
    if dataset == "digits":
        return DIGITS_SOURCE, "CC BY 4.0"
    info = {}
    folder = os.path.abspath(os.path.expanduser(dataset))
    if dataset != "fake":
        if not os.path.isdir(folder):
            root = dataset_folder.default_data_dir(data_dir)
            folder = dataset_folder.find(dataset, root)
        if folder and dataset_folder.is_dataset(folder):
            info = dataset_folder.inspect(folder).info
    name = f"{info['name']} {info['version']}" if info else dataset
    about = [info.get("description", ""), info.get("citation", "")]
    text = " ".join(" ".join(about).split())
    licence = info.get("redistributionInfo", {}).get("license")
    return (
        f"Drawn by a diffusion model trained on {name}. {text}".strip(),
        licence or f"that of the training images, {name}",
    )


def write_arrays(out: str, pool: arrays.ImageArrays, report: Mapping[str, Any]):
    """The pool in array form; `report` goes into its meta.json."""
    arrays.save(out, pool, report)


def write_tfds(
    out: str,
    staging: str,
    pool: arrays.ImageArrays,
    report: Mapping[str, Any],
    tf_write,
):
    """The pool as a TFDS dataset folder with a pool.json. tf_write: that module.

    Written below `staging` and moved, its description last: half a pool is none.
    """
    parent = os.path.join(staging, "pool")
    shutil.rmtree(parent, ignore_errors=True)
    folder = os.path.join(parent, os.path.basename(out))
    size = pool.images.shape[1]
    source, licence = report["source"], report["licence"]
    how = {k: v for k, v in report.items() if k not in ("source", "licence")}
    examples = (
        tf_write.Example(
            image=image, label=int(label), id=f"{GENERATOR}_{i:06d}", generator=0
        )
        for i, (image, label) in enumerate(
            zip(arrays.to_rgb(pool.images), pool.labels, strict=True)
        )
    )
    tf_write.write(
        folder,
        {"train": examples},
        class_names=pool.class_names,
        size=(size, size),
        generator_names=pool.generator_names,
        pool={
            "generators": {GENERATOR: {"how": how, "images": len(pool.labels)}},
            "resize": {"kernel": None, "size": size, "resized": 0},
            "exact_duplicates": report["duplicates_dropped"],
            "exact_duplicates_dropped": report["duplicates_dropped"],
            "licence": licence,
            "source": source,
        },
        description=source,
        licence=licence,
    )
    for name in sorted(os.listdir(folder), key=lambda n: n == dataset_folder.INFO):
        os.replace(os.path.join(folder, name), os.path.join(out, name))


def _read(path: str) -> dict[str, Any] | None:
    try:
        with open(path) as f:
            return json.load(f)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise RequestError(f"{path} cannot be read ({e}); delete its folder") from None
