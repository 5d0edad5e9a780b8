"""TFDS dataset folders without TensorFlow: finds, describes and checks them."""

import contextlib
import dataclasses
import functools
import glob
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data.stores import tfrecord
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.errors import RequestError

INFO = "dataset_info.json"
POOL_REPORT = "pool.json"  # says how a synthetic pool was made
ORIGINS = "origins.json"  # {split: "real" or "unknown"}, written by import_images
STAGING = ".staging"  # in a generated pool's folder: the pictures it is written from
_FEATURES = "features.json"
_NAME = re.compile(r"([A-Za-z]\w*)(?:/([^:/]+))?(?::([\d.*]+))?")
_ENDS = 1 << 16  # bytes read at either end of a file for the fingerprint
_TFDS = "tensorflow_datasets."
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset folder; info: the content of its `dataset_info.json`."""

    folder: str
    name: str
    version: str
    info: dict[str, Any]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(s["name"] for s in self.info.get("splits", ()))

    @property
    def file_format(self) -> str:
        return self.info.get("fileFormat") or "tfrecord"

    @functools.cached_property
    def fingerprint(self) -> str:
        """12 hex digits of the files' names, sizes, first and last bytes.

        Records carry checksums, so the ends of a shard show what is in it. Reading all
        bytes would take longer than opening the decoded copy.
        """
        digest = hashlib.sha256()
        paths = (p for p in pathlib.Path(self.folder).iterdir() if p.is_file())
        for path in sorted(paths):
            size = path.stat().st_size
            digest.update(json.dumps([path.name, size]).encode())
            with path.open("rb") as f:
                digest.update(f.read(_ENDS))
                f.seek(max(0, size - _ENDS))
                digest.update(f.read(_ENDS))
        return digest.hexdigest()[:12]


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Sort key that puts `train_2` before `train_10`; other texts have other keys."""
    parts = re.split(r"([0-9]+)", text)
    return [int(p) if i % 2 else p for i, p in enumerate(parts)], text


def default_data_dir(data_dir: str | None) -> str:
    """Returns `data_dir`, or TFDS's: $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return os.path.abspath(os.path.expanduser(folder))


def split_name(name: str) -> tuple[str, str | None, str | None]:
    """Splits `name[/config][:version]`; raises RequestError for anything else."""
    match = _NAME.fullmatch(name)
    if not match:
        kinds = "neither a TFDS name (name[/config][:version]) nor an existing folder"
        raise RequestError(f"data.name={name!r} is {kinds}")
    return match[1], match[2], match[3]


def find(name: str, data_dir: str) -> str | None:
    """Returns the folder of the newest prepared version of a TFDS dataset, or None."""
    base, config, version = split_name(name)
    root = pathlib.Path(data_dir, base)
    if not config:
        with contextlib.suppress(RequestError):  # TFDS may have noted a default
            noted = files.read_json(str(root / ".config" / "metadata.json"))
            config = (noted or {}).get("default_config_name")
    newest = {}  # by config; "." is a dataset without configs
    for pattern in [glob.escape(config)] if config else [".", "*"]:
        paths = root.glob(os.path.join(pattern, version or "*", INFO))
        folders = [path.parent for path in paths]
        for folder in sorted(folders, key=lambda folder: natural_key(folder.name)):
            if is_version(folder.name):
                newest[str(folder.parent.relative_to(root))] = str(folder)
    if len(newest) > 1 and "." not in newest:
        configs = ", ".join(sorted(newest))
        raise RequestError(
            f"{name} in {data_dir} has the configs {configs}: choose one, such as "
            f"--config.data.name={base}/{min(newest)}"
        )
    return newest.get(".") or next(iter(newest.values()), None)


def inspect(folder: str) -> Source:
    """Reads the description of a dataset folder, and checks that only TFDS is named."""
    path = os.path.join(folder, INFO)
    info = files.read_json(path) if os.path.isdir(folder) else None
    if info is None:
        inner = sorted(pathlib.Path(folder).glob(f"*/{INFO}"))
        hint = f"; did you mean {inner[-1].parent}?" if inner else ""
        raise RequestError(f"{folder} is no dataset folder: it has no {INFO}{hint}")
    version = str(info.get("version"))  # becomes part of a path
    if "name" not in info or not is_version(version):
        reason = f"it names no dataset, or a version {version!r} unlike 1.0.0"
        raise RequestError(f"{path}: {reason}; prepare the dataset again")
    _check_features(os.path.join(folder, _FEATURES))
    return Source(folder, info["name"], version, info)


def is_dataset(folder: str) -> bool:
    """Whether a folder has a dataset's description."""
    return os.path.isfile(os.path.join(folder, INFO))


def is_version(text: str) -> bool:
    """Whether a text is a version such as 1.0.0."""
    return re.fullmatch(r"\d+\.\d+\.\d+", text) is not None


def check_shards(source: Source, splits: Sequence[str]):
    """Raises RequestError that names the first absent or truncated shard of splits."""
    for split in splits:
        for shard in shards(source, split):
            if source.file_format == "tfrecord":
                for _ in records(source, shard):
                    pass


def shards(source: Source, split: str) -> list[tuple[str, int]]:
    """Returns (path, number of records) of a split's files; RequestError if absent."""
    infos = {info["name"]: info for info in source.info.get("splits", ())}
    info = infos.get(split, {})
    lengths = info.get("shardLengths", ())
    paths = []
    for shard, length in enumerate(lengths):
        file = info.get("filepathTemplate") or _TEMPLATE
        number, total = f"{shard:05d}", f"{len(lengths):05d}"
        values = {"DATASET": source.name, "SPLIT": split, "SHARD_INDEX": number}
        values |= {"FILEFORMAT": source.file_format, "NUM_SHARDS": total}
        values["SHARD_X_OF_Y"] = f"{number}-of-{total}"
        for key, value in values.items():
            file = file.replace("{" + key + "}", value)
        path = os.path.join(source.folder, file)
        if not os.path.isfile(path):
            raise RequestError(f"{path} is absent, {INFO} lists it; {_way_out(source)}")
        paths.append((path, int(length)))
    return paths


def records(
    source: Source, shard: tuple[str, int], keys: Sequence[str] = ()
) -> Iterator[dict[str, tfrecord.Value]]:
    """Yields the records of one of `shards`; RequestError if it is damaged."""
    path, length = shard
    number = 0
    try:
        for record in tfrecord.records(path, keys):
            number += 1
            yield record
        if number != length:
            raise tfrecord.Damaged(f"{number} complete records")
    except tfrecord.Damaged as e:
        raise damaged(source, path, f"{e}, but {INFO} lists {length}") from None
    except OSError as e:
        raise RequestError(f"{path} cannot be read ({e}); restore it") from None


def damaged(source: Source, path: str, reason: str) -> RequestError:
    """Returns the error for a damaged shard."""
    return RequestError(f"{path} is truncated or damaged: {reason}; {_way_out(source)}")


def label_names(folder: str, feature: str = "label") -> tuple[str, ...]:
    """Returns a class feature's names; RequestError if there is no such feature."""
    inspect(folder)
    with contextlib.suppress(FileNotFoundError):  # TFDS numbers classes without names
        path = os.path.join(folder, f"{feature}.labels.txt")
        with open(path, encoding="utf-8") as f:
            return tuple(line.strip() for line in f if line.strip())
    path = os.path.join(folder, _FEATURES)
    try:
        features = (files.read_json(path) or {})["featuresDict"]["features"]
        count = int(features[feature]["classLabel"]["numClasses"])
    except (KeyError, TypeError, ValueError) as e:
        hints = {"generator": "import the images with --generator=NAME"}
        hint = hints.get(feature, "only labelled images can be used")
        raise RequestError(f"{path} has no class {feature} ({e!r}); {hint}") from None
    return tuple(str(label) for label in range(count))


def assemble(
    source: Source,
    split: str,
    columns: dict[str, np.ndarray],
    ids: Sequence[str],
    classes: dict[str, tuple[str, ...]],
) -> ImageArrays:
    """Returns a split, sorted by ids in natural order if all images have one. columns:
    `image` [N, ...], and for each feature in `classes` int [N]. Images of a pool have a
    class; others may have the label -1."""
    if len(ids) == len(columns["image"]):
        keys = [natural_key(name) for name in ids]
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
        if (np.diff(order) < 0).any():  # a copy of all images, so only if it must be
            columns = {key: column[order] for key, column in columns.items()}
    for key, names in classes.items():
        lowest = 0 if "generator" in classes else -1
        outside = (columns[key] < lowest) | (columns[key] >= len(names))
        if outside.any():
            raise RequestError(
                f"{source.folder}: {outside.sum()} images of {split} have no {key}"
            )
        columns[key] = columns[key].astype(np.int32, copy=False)
    return ImageArrays(
        name=source.name,
        images=columns["image"],
        labels=columns["label"],
        class_names=classes["label"],
        generators=columns.get("generator"),
        generator_names=classes.get("generator", ()),
    )


def unknown_origins(folder: str) -> set[str]:
    """Returns the splits whose images are of unknown origin, as `origins.json` says."""
    path = os.path.join(folder, ORIGINS)
    content = files.read_json(path) or {}
    kinds = content.values() if isinstance(content, dict) else [None]
    if not all(kind in ("real", "unknown") for kind in kinds):
        raise RequestError(
            f'{path} holds {content}, not {{"unlabelled": "unknown"}} or "real"; '
            "correct it, or import the pictures again"
        )
    return {split for split, kind in content.items() if kind == "unknown"}


@contextlib.contextmanager
def needs_tensorflow(purpose: str, otherwise: str = "") -> Generator[None]:
    """Raises RequestError if the block's import of TensorFlow fails."""
    try:
        yield
    except ImportError as e:
        raise RequestError(
            f"{purpose} needs TensorFlow and tensorflow-datasets ({e}): pip install -r "
            f"requirements.txt{otherwise}"
        ) from e


def _check_features(path: str):
    """Refuses features outside TFDS, which would run their module from the folder."""
    parts: list[Any] = [files.read_json(path)]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            for key in ("pythonClassName", "type"):  # the second was used earlier
                name = part.get(key)
                if isinstance(name, str) and not name.startswith(_TFDS):
                    raise RequestError(
                        f"{path}: {name} is no feature of TFDS; choose another dataset"
                    )
            parts += part.values()
        elif isinstance(part, list):
            parts += part


def _way_out(source: Source) -> str:
    folder = source.folder
    if os.path.isdir(os.path.join(folder, STAGING)):
        info = os.path.join(folder, INFO)
        return f"delete {info}, then draw again: all pictures are still in {STAGING}"
    return f"delete {folder}, then copy or prepare it again (a pool: import it again)"
