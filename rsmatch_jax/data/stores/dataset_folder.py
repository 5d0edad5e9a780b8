"""TFDS dataset folders, read without TensorFlow.

`dataset_info.json` names the splits and their shards. That is enough to find a
dataset, to see whether its decoded copy is current, and to name a damaged file.
"""

import contextlib
import dataclasses
import fnmatch
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data.stores import tfrecord
from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.errors import RequestError

INFO = "dataset_info.json"
POOL_REPORT = "pool.json"  # says how a synthetic pool was made
STAGING = ".staging"  # in a generated pool's folder: the pictures it is written from
_FEATURES = "features.json"
_NAME = re.compile(
    r"(?P<name>[A-Za-z]\w*)(/(?P<config>[^:/]+))?(:(?P<version>[\d.*]+))?"
)
_ENDS = 1 << 16  # bytes read at either end of a file for the fingerprint
_TFDS = "tensorflow_datasets."
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset folder. fingerprint: 12 hex digits that change with its files."""

    folder: str
    name: str
    version: str
    fingerprint: str
    info: dict[str, Any]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(s["name"] for s in self.info.get("splits", ()))

    @property
    def file_format(self) -> str:
        return self.info.get("fileFormat") or "tfrecord"


def natural_key(text: str) -> list[str | int]:
    """Sort key that puts `train_2` before `train_10`."""
    parts = re.split(r"([0-9]+)", text)
    return [int(p) if i % 2 else p for i, p in enumerate(parts)]


def default_data_dir(data_dir: str | None) -> str:
    """Returns `data_dir`, or TFDS's: $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return os.path.abspath(os.path.expanduser(folder))


def split_name(name: str) -> tuple[str, str | None, str | None]:
    """Splits `name[/config][:version]`; raises RequestError for anything else."""
    match = _NAME.fullmatch(name)
    if not match:
        raise RequestError(
            f"data.name={name!r} is neither a TFDS name (name[/config][:version]) nor "
            "an existing folder"
        )
    return match["name"], match["config"], match["version"]


def find(name: str, data_dir: str) -> str | None:
    """Returns the folder of the newest prepared version of a TFDS dataset, or None."""
    base, config, version = split_name(name)
    folder = os.path.join(data_dir, base)
    if not config:
        with contextlib.suppress(RequestError):  # TFDS may have noted a default
            noted = files.read_json(os.path.join(folder, ".config", "metadata.json"))
            config = (noted or {}).get("default_config_name")
    prepared = {}
    for part in [config] if config else ["", *_subfolders(folder)]:  # "": no configs
        versions = [
            inner
            for inner in _subfolders(os.path.join(folder, part))
            if is_version(inner)
            and fnmatch.fnmatchcase(inner, version or "*")
            and is_dataset(os.path.join(folder, part, inner))
        ]
        if versions:
            newest = max(versions, key=natural_key)
            prepared[part] = os.path.join(folder, part, newest)
    if len(prepared) > 1 and "" not in prepared:
        raise RequestError(
            f"{name} in {data_dir} has the configs {', '.join(prepared)}: choose one, "
            f"such as --config.data.name={base}/{next(iter(prepared))}"
        )
    return next(iter(prepared.values()), None)


def inspect(folder: str) -> Source:
    """Reads the description of a dataset folder.

    Raises:
        RequestError: it is absent or damaged, or names code that is not TFDS's.
    """
    path = os.path.join(folder, INFO)
    info = files.read_json(path) if os.path.isdir(folder) else None
    if info is None:
        inner = [v for v in _subfolders(folder) if is_dataset(f"{folder}/{v}")]
        hint = f"; did you mean {os.path.join(folder, inner[-1])}?" if inner else ""
        raise RequestError(f"{folder} is no dataset folder: it has no {INFO}{hint}")
    if "name" not in info or "version" not in info:
        raise RequestError(f"{path} names no dataset; prepare the dataset again")
    if not is_version(str(info["version"])):  # it becomes part of a path
        raise RequestError(
            f"{path}: the version {info['version']!r} is not of the form 1.0.0; "
            "prepare the dataset again"
        )
    _check_features(os.path.join(folder, _FEATURES))
    return Source(folder, info["name"], info["version"], _fingerprint(folder), info)


def is_dataset(folder: str) -> bool:
    """Whether a folder has a dataset's description."""
    return os.path.isfile(os.path.join(folder, INFO))


def is_version(text: str) -> bool:
    """Whether a text is a version such as 1.0.0."""
    return re.fullmatch(r"\d+\.\d+\.\d+", text) is not None


def refuse_existing(folder: str):
    """Raises RequestError if `folder` exists."""
    if os.path.lexists(folder):
        raise RequestError(
            f"--out={folder} exists already; choose another folder, or delete it first"
        )


def check_shards(source: Source, splits: Sequence[str]):
    """Raises RequestError that names the first absent or truncated shard of splits."""
    for split in splits:
        for path, length in shards(source, split):
            if source.file_format != "tfrecord":
                continue
            try:
                if (records := tfrecord.count(path)) != length:
                    raise tfrecord.Damaged(f"{records} complete records")
            except tfrecord.Damaged as e:
                reason = f"{e}, but {INFO} lists {length}"
                raise damaged(source, path, reason) from None


def shards(source: Source, split: str) -> list[tuple[str, int]]:
    """Returns (path, number of records) of a split's files; RequestError if absent."""
    infos = source.info.get("splits", ())
    info = next((info for info in infos if info["name"] == split), {})
    lengths = info.get("shardLengths", ())
    paths = []
    for shard, length in enumerate(lengths):
        file = info.get("filepathTemplate") or _TEMPLATE
        for key, value in {
            "DATASET": source.name,
            "SPLIT": split,
            "FILEFORMAT": source.file_format,
            "SHARD_X_OF_Y": f"{shard:05d}-of-{len(lengths):05d}",
            "SHARD_INDEX": f"{shard:05d}",
            "NUM_SHARDS": f"{len(lengths):05d}",
        }.items():
            file = file.replace("{" + key + "}", value)
        path = os.path.join(source.folder, file)
        if not os.path.isfile(path):
            raise RequestError(f"{path} is absent, {INFO} lists it; {_way_out(source)}")
        paths.append((path, int(length)))
    return paths


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
        generator = feature == "generator"
        raise RequestError(
            f"{path} describes no class {feature} ({e!r}); only labelled images can be "
            "used" + ("; import them with --generator=NAME" if generator else "")
        ) from None
    return tuple(str(label) for label in range(count))


def assemble(
    source: Source,
    split: str,
    columns: dict[str, np.ndarray],
    ids: Sequence[str],
    classes: dict[str, tuple[str, ...]],
) -> ImageArrays:
    """Returns a split, sorted by ids in natural order if all images have one.

    columns: `image` [N, ...], and for each feature in `classes` int [N].

    Raises:
        RequestError: a column of `classes` has a value without a name.
    """
    if len(ids) == len(columns["image"]):
        keys = [natural_key(name) for name in ids]
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
        columns = {key: column[order] for key, column in columns.items()}
    for key, names in classes.items():
        outside = (columns[key] < 0) | (columns[key] >= len(names))
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


@contextlib.contextmanager
def needs_tensorflow(purpose: str, otherwise: str = "") -> Iterator[None]:
    """For an import that needs TensorFlow; raises RequestError if that is missing."""
    try:
        yield
    except ImportError as e:
        raise RequestError(
            f"{purpose} needs TensorFlow and tensorflow-datasets ({e}): pip install -r "
            f"requirements.txt{otherwise}"
        ) from e


def _check_features(path: str):
    """Raises RequestError if features.json names a class outside TFDS.

    TFDS imports the module of such a class, and a dataset folder may hold a module.
    """
    parts: list[Any] = [files.read_json(path)]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            for key in ("pythonClassName", "type"):  # the second was used earlier
                name = part.get(key)
                if isinstance(name, str) and not name.startswith(_TFDS):
                    raise RequestError(
                        f"{path}: {name} is no feature of TFDS and is not loaded; use "
                        "a dataset that has only TFDS's features"
                    )
            parts += part.values()
        elif isinstance(part, list):
            parts += part


def _fingerprint(folder: str) -> str:
    """12 hex digits of the files' names, sizes, first and last bytes.

    Names and sizes alone do not tell two imports of small PNGs apart, and reading all
    bytes takes longer than opening the decoded copy. Records carry checksums, so the
    ends of a shard show what is in it.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in pathlib.Path(folder).iterdir() if p.is_file()):
        size = path.stat().st_size
        digest.update(json.dumps([path.name, size]).encode())
        with path.open("rb") as f:
            digest.update(f.read(_ENDS))
            f.seek(max(0, size - _ENDS))
            digest.update(f.read(_ENDS))
    return digest.hexdigest()[:12]


def _way_out(source: Source) -> str:
    if os.path.isdir(os.path.join(source.folder, STAGING)):
        return (
            f"its pictures are still in {STAGING}: delete "
            f"{os.path.join(source.folder, INFO)} and run the command that drew them "
            "again, which writes the pool again"
        )
    return (
        "copy or prepare the dataset again (a synthetic pool: import it again), then "
        f"delete {source.folder} if it is the damaged copy"
    )


def _subfolders(folder: str) -> list[str]:
    try:
        return sorted(f.name for f in os.scandir(folder) if f.is_dir())
    except OSError:
        return []
