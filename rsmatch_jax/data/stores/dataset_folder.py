"""TFDS dataset folders seen without TensorFlow: where, what version, whether whole.

`dataset_info.json` names the splits and their shards. That is enough to find a
dataset, to know whether its decoded copy is current, and to name the damaged file.
"""

import dataclasses
import fnmatch
import hashlib
import json
import mmap
import os
import re
import struct
from collections.abc import Sequence
from typing import Any

from rsmatch_jax.errors import RequestError

INFO = "dataset_info.json"
STAGING = ".staging"  # of a pool that is drawn: what it is written from
_NAME = re.compile(
    r"(?P<name>[A-Za-z]\w*)(/(?P<config>[^:/]+))?(:(?P<version>[\d.*]+))?"
)
_ENDS = 1 << 16
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


def natural_key(text: str) -> list[str | int]:
    """Sort key by which `train_2` comes before `train_10`."""
    parts = re.split(r"([0-9]+)", text)
    return [int(p) if i % 2 else p for i, p in enumerate(parts)]


def default_data_dir(data_dir: str | None) -> str:
    """`data_dir`, or where TFDS looks: $TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return os.path.abspath(os.path.expanduser(folder))


def split_name(name: str) -> tuple[str, str | None, str | None]:
    """`name[/config][:version]` in its parts; RequestError on anything else."""
    match = _NAME.fullmatch(name)
    if not match:
        raise RequestError(
            f"data.name={name!r} is neither a TFDS name (name[/config][:version]) nor "
            "an existing folder"
        )
    return match["name"], match["config"], match["version"]


def find(name: str, data_dir: str) -> str | None:
    """The folder of the newest prepared version of a TFDS dataset; None if absent."""
    base, config, version = split_name(name)
    folder = os.path.join(data_dir, base)
    config = config or _default_config(folder)
    if config:
        folder = os.path.join(folder, config)
    found = _versions(folder, version or "*")
    if not found and not config:
        configs = [c for c in _subfolders(folder) if _versions(f"{folder}/{c}", "*")]
        if len(configs) > 1:
            raise RequestError(
                f"{name} in {data_dir} has the configs {', '.join(configs)}: choose "
                f"one, such as --config.data.name={base}/{configs[0]}"
            )
        if configs:
            folder = os.path.join(folder, configs[0])
            found = _versions(folder, version or "*")
    return os.path.join(folder, found[-1]) if found else None


def inspect(folder: str) -> Source:
    """Reads a dataset folder's description; RequestError if it is none."""
    path = os.path.join(folder, INFO)
    try:
        with open(path) as f:
            info = json.load(f)
    except (FileNotFoundError, NotADirectoryError):
        inner = [v for v in _subfolders(folder) if is_dataset(f"{folder}/{v}")]
        hint = f"; did you mean {os.path.join(folder, inner[-1])}?" if inner else ""
        raise RequestError(
            f"{folder} is no dataset folder: it has no {INFO}{hint}"
        ) from None
    except (OSError, ValueError) as e:
        raise RequestError(
            f"{path} cannot be read ({e}); prepare the dataset again"
        ) from None
    if not isinstance(info, dict) or "name" not in info or "version" not in info:
        raise RequestError(f"{path} names no dataset; prepare the dataset again")
    if not is_version(str(info["version"])):  # it becomes part of a path
        raise RequestError(
            f"{path}: version {info['version']!r} is none (such as 1.0.0); prepare the "
            "dataset again"
        )
    _check_features(folder)
    return Source(folder, info["name"], info["version"], _fingerprint(folder), info)


def _check_features(folder: str):
    """Raises RequestError where features.json names a class of other modules: TFDS
    imports them, and a folder may hold a module, too."""
    path = os.path.join(folder, "features.json")
    try:
        with open(path, encoding="utf-8") as f:
            parts = [json.load(f)]
    except FileNotFoundError:
        return
    except (OSError, ValueError) as e:
        raise RequestError(
            f"{path} cannot be read ({e}); prepare the dataset again"
        ) from None
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            for key in ("pythonClassName", "type"):  # today's name and an old one
                name = part.get(key)
                if isinstance(name, str) and not name.startswith(_TFDS):
                    raise RequestError(
                        f"{path}: {name} is no feature of TFDS and is not loaded; "
                        "use a dataset of TFDS's own features"
                    )
            parts += part.values()
        elif isinstance(part, list):
            parts += part


def _fingerprint(folder: str) -> str:
    """12 hex digits of the files' names, sizes, first and last bytes.

    Names and sizes alone would not tell apart two imports of small PNGs; reading all
    would take longer than opening the decoded copy. Records carry checksums, so the
    ends of a shard show what is in it.
    """
    digest = hashlib.sha256()
    for name in sorted(f.name for f in os.scandir(folder) if f.is_file()):
        path = os.path.join(folder, name)
        size = os.path.getsize(path)
        digest.update(json.dumps([name, size]).encode())
        with open(path, "rb") as f:
            digest.update(f.read(_ENDS))
            f.seek(max(0, size - _ENDS))
            digest.update(f.read(_ENDS))
    return digest.hexdigest()[:12]


def is_dataset(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, INFO))


def is_version(text: str) -> bool:
    return re.fullmatch(r"\d+\.\d+\.\d+", text) is not None


def check_shards(source: Source, splits: Sequence[str]):
    """RequestError naming the first absent, truncated or short shard of `splits`."""
    for split in splits:
        for path, length in shards(source, split):
            if not is_tfrecord(source):
                continue
            records, whole = _count_records(path)
            if not whole or records != length:
                what = f"{records} whole records of {length}"
                raise damaged(source, path, what)


def shards(source: Source, split: str) -> list[tuple[str, int]]:
    """(path, records) of a split's files in their order, all of which are there.

    Raises: RequestError naming an absent one.
    """
    found = []
    for described in source.info.get("splits", ()):
        if described["name"] == split:
            lengths = [int(n) for n in described.get("shardLengths", ())]
            for shard, length in enumerate(lengths):
                path = _shard_path(source, described, shard, len(lengths))
                if not os.path.isfile(path):
                    raise RequestError(
                        f"{path} is absent, {INFO} lists it; {_way_out(source)}"
                    )
                found.append((path, length))
    return found


def damaged(source: Source, path: str, what: str) -> RequestError:
    """The error that says so of a shard, and what to do."""
    return RequestError(f"{path} is truncated or damaged: {what}; {_way_out(source)}")


def is_tfrecord(source: Source) -> bool:
    return (source.info.get("fileFormat") or "tfrecord") == "tfrecord"


def label_names(folder: str, feature: str = "label") -> tuple[str, ...]:
    """The names of a class feature, from the files that TFDS writes beside the images.

    Raises: RequestError where there is no such feature.
    """
    inspect(folder)  # or it is no dataset folder at all
    try:
        path = os.path.join(folder, f"{feature}.labels.txt")
        with open(path, encoding="utf-8") as f:
            return tuple(line.strip() for line in f if line.strip())
    except FileNotFoundError:
        pass  # TFDS numbers classes that it has no names for
    path = os.path.join(folder, "features.json")
    try:
        with open(path, encoding="utf-8") as f:
            features = json.load(f)["featuresDict"]["features"]
        count = int(features[feature]["classLabel"]["numClasses"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RequestError(
            f"{path} describes no class {feature} ({e!r}); only labelled images can be "
            "used"
            + ("; import them with --generator=NAME" if feature == "generator" else "")
        ) from None
    return tuple(str(label) for label in range(count))


def _shard_path(source: Source, split: dict[str, Any], shard: int, count: int) -> str:
    file = split.get("filepathTemplate") or _TEMPLATE
    for key, value in {
        "DATASET": source.name,
        "SPLIT": split["name"],
        "FILEFORMAT": source.info.get("fileFormat") or "tfrecord",
        "SHARD_X_OF_Y": f"{shard:05d}-of-{count:05d}",
        "SHARD_INDEX": f"{shard:05d}",
        "NUM_SHARDS": f"{count:05d}",
    }.items():
        file = file.replace("{" + key + "}", value)
    return os.path.join(source.folder, file)


def _way_out(source: Source) -> str:
    if os.path.isdir(os.path.join(source.folder, STAGING)):
        return (
            f"its pictures are still in {STAGING}: delete "
            f"{os.path.join(source.folder, INFO)} and run the command that drew them "
            "again, then the pool is written anew"
        )
    return (
        "copy or prepare the dataset again (a synthetic pool: import it again), "
        f"then delete {source.folder} if it is the damaged copy"
    )


def _count_records(path: str) -> tuple[int, bool]:
    """Whole records of a TFRecord file, and whether it ends at a record's end.

    A record is its length (uint64), a checksum (4 bytes), the data, a checksum.
    """
    size = os.path.getsize(path)
    if not size:
        return 0, True
    records = position = 0
    with (
        open(path, "rb") as f,
        mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        while position + 16 <= size:
            end = position + 16 + struct.unpack_from("<Q", data, position)[0]
            if end > size:
                break
            records, position = records + 1, end
    return records, position == size


def _default_config(folder: str) -> str | None:
    """The default config, where TFDS has noted one beside the prepared configs."""
    try:
        with open(os.path.join(folder, ".config", "metadata.json")) as f:
            return json.load(f).get("default_config_name")
    except (OSError, ValueError):
        return None


def _versions(folder: str, pattern: str) -> list[str]:
    """Prepared versions below `folder` that match, oldest first."""
    found = [
        v
        for v in _subfolders(folder)
        if is_version(v)
        and fnmatch.fnmatchcase(v, pattern)
        and is_dataset(os.path.join(folder, v))
    ]
    return sorted(found, key=natural_key)


def _subfolders(folder: str) -> list[str]:
    try:
        return sorted(f.name for f in os.scandir(folder) if f.is_dir())
    except OSError:
        return []
