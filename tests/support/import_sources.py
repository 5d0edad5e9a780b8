"""Zips and folders of pictures to import, and the results of an import."""

import io
import json
import tarfile
import zipfile
from collections.abc import Sequence

import numpy as np
from PIL import Image
from support import encoded_sets
from support.pictures import encode, noise

from rsmatch_jax.data import import_images, sources
from rsmatch_jax.sift import folders
from rsmatch_jax.sift.folders import Source
from rsmatch_jax.sift.rows import Row

SIZE = 8


def pixels(seed: int, size: int = SIZE) -> np.ndarray:
    return noise(size, size, 3, seed=seed)


def make_zip(path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return str(path)


def make_tar(path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w:gz" if str(path).endswith("gz") else "w:") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def make_folder(path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        folder = name if name.endswith("/") else name.rpartition("/")[0]
        (path / folder).mkdir(parents=True, exist_ok=True)
        if folder != name:
            (path / name).write_bytes(data)
    return str(path)


def sift_links(folder, photos, names: Sequence[str]) -> None:
    """What sift --link makes of pictures, from their names in the result
    (VERDICT/CLASS/NAME); the pictures are the files of the same NAME in `photos`."""
    parts = [name.split("/") for name in names]
    rows = [Row(file, kind, 0.9, 0.1, verdict) for verdict, kind, file in parts]
    files = [photos / file for _, _, file in parts]
    sources = [Source(str(file), file.read_bytes) for file in files]
    folders.fill("link", str(folder), rows, sources)


def cifake_files() -> dict[str, bytes]:
    files = {}
    for number in (10, 9):
        for k in range(1, 11):
            name = f"{number}.jpg" if k == 1 else f"{number} ({k}).jpg"
            files[f"train/FAKE/{name}"] = encode(pixels(100 * number + k), "JPEG")
    return files


TINY = {
    "wnids.txt": b"n03\nn01\nn02\nn04\n",
    "words.txt": b"n01\tcrane\nn02\tgoldfish, Carassius\nn03\tcrane, bird\nn9\tx\n",
    "val/val_annotations.txt": b"val_0.JPEG\tn03\t0\t0\t9\t9\nval_1.JPEG\tn01\t1\t2\n",
    "train/n01/n01_boxes.txt": b"n01_0.JPEG\t0\t0\t9\t9\n",
    "test/images/test_0.JPEG": encode(pixels(99, 64), "JPEG"),
    "readme.jpg": b"junk",
}


def tiny_imagenet_files(size=64) -> dict[str, bytes]:
    files = dict(TINY)
    for number, wnid in enumerate(("n01", "n02", "n03", "n04")):
        for i in (10, 9):
            name = f"train/{wnid}/images/{wnid}_{i}.JPEG"
            files[name] = encode(pixels(10 * i + number, size), "JPEG")
    grey = Image.fromarray(pixels(5, size)).convert("L")
    files["val/images/val_0.JPEG"] = encode(np.asarray(grey), "JPEG")
    files["val/images/val_1.JPEG"] = encode(pixels(6, size), "JPEG")
    return files


def run(source, out, *flags, layout="folders", size=SIZE) -> int:
    argv = [f"--layout={layout}", f"--source={source}", f"--out={out}", *flags]
    return import_images.main(argv if size is None else [*argv, f"--size={size}"])


def pool_of(out, tmp_path):
    return sources.load_pool(str(out), cache_dir=str(tmp_path / "cache"))


def report_of(out):
    return json.loads((out / "pool.json").read_text())


def stored_bytes(out) -> dict[str, bytes]:
    return {row["id"].decode(): row["image"] for row in encoded_sets.stored(out)}
