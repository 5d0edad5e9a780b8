"""Layouts of image collections: what their folders and file names mean."""

import argparse
import dataclasses
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence

from rsmatch_jax.data.images.image_source import File, Unreadable
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.errors import RequestError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer")
CIFAR10 += ("dog", "frog", "horse", "ship", "truck")
_CIFAKE_FILE = re.compile(r"\d+(?: \((\d+)\))?\.jpe?g", re.IGNORECASE)
SPLITS = ("train", "test", "validation")
_SHOWN = 10

Files = Sequence[File]


@dataclasses.dataclass(frozen=True)
class Item:
    """An image to import. generator: None for a real dataset."""

    file: File
    split: str
    label: int
    generator: int | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a layout makes of the files."""

    items: list[Item]
    class_names: tuple[str, ...]
    generators: dict[str, str]  # {name: how it was run}; empty for a real dataset
    licence: str
    source: str
    ignored: dict[str, int]  # {reason: number of images}


def cifake_plan(files: Files, others: Files, args: argparse.Namespace) -> Plan:
    """CIFAKE's names: NNNN.jpg is airplane, `NNNN (k).jpg` class k - 1 (2 to 10)."""
    items, ignored = [], Counter()
    for file in files:
        *folders, name = file.path.split("/")
        if "FAKE" not in [os.path.basename(args.source), *folders]:
            ignored["outside FAKE"] += 1
        elif "test" in folders:
            ignored["CIFAKE's test split"] += 1
        else:
            match = _CIFAKE_FILE.fullmatch(name)
            label = int(match[1] or 1) - 1 if match and match[1] != "1" else -1
            if not 0 <= label < len(CIFAR10):
                raise RequestError(
                    f"{file.path} is no name of CIFAKE's (NNNN.jpg or 'NNNN (k).jpg', "
                    "k from 2 to 10); for other images use --layout=folders"
                )
            items.append(Item(file, "train", label, 0))
    if not items:
        reason = "has no folder FAKE of images; for others use --layout=folders"
        raise RequestError(f"--source={args.source} {reason}")
    how = "CIFAKE's own run of Stable Diffusion 1.4, per class of CIFAR-10"
    return Plan(
        items,
        class_names=CIFAR10,
        generators={args.generator or "stable-diffusion-1.4": how},
        licence="MIT, as the dataset's page states",
        source="CIFAKE: J. J. Bird and A. Lotfi 2023, arXiv:2303.14126, after CIFAR-10 "
        "by A. Krizhevsky 2009",
        ignored=ignored,
    )


def folders_plan(files: Files, others: Files, args: argparse.Namespace) -> Plan:
    """Class folders, which may lie in folders per split or per generator."""
    root, generator = args.source, args.generator
    paths = _unwrap([file.path.split("/")[:-1] for file in files], generator)
    depths = {len(path): file.path for path, file in zip(paths, files, strict=True)}
    if depths.keys() not in ({1}, {2}):
        examples = " and ".join(depths.values()) or "no images at all"
        raise RequestError(
            f"--source={root} must hold class/img, train|test/class/img or "
            f"generator/class/img, but has {examples}"
        )
    tops = sorted({p[0] for p in paths}, key=natural_key) if 2 in depths else []
    has_splits = bool(tops) and set(tops) <= set(SPLITS)
    if tops and not has_splits and generator:
        raise RequestError(
            f"--source={root}: the folders above the classes name the generators "
            f"({', '.join(tops[:_SHOWN])}), leave out --generator"
        )
    names = [generator] if generator else ([] if has_splits else tops)
    folders = {path[-1] for path in paths}
    unlisted = sorted(folders - set(args.class_names))
    if args.class_names and unlisted:
        wrong = f"the class folders {', '.join(unlisted[:_SHOWN])} are not in it"
        raise RequestError(f"--class_names: {wrong}; rename them, or correct the file")
    class_names = args.class_names or sorted(folders, key=natural_key)
    labels = {name: label for label, name in enumerate(class_names)}
    items, ignored = [], Counter()
    for file, path in zip(files, paths, strict=True):
        split = path[0] if has_splits else "train"
        if names and split != "train":
            ignored[f"{split} split, a pool has none"] += 1
            continue
        position = names.index(path[0]) if names and tops and not has_splits else 0
        items.append(Item(file, split, labels[path[-1]], position if names else None))
    return Plan(
        items,
        class_names=tuple(labels),
        generators=dict.fromkeys(names, "not stated; images imported from disk"),
        licence="not stated",
        source=f"images imported from {os.path.basename(root)}",
        ignored=ignored,
    )


def tiny_imagenet_plan(files: Files, others: Files, args: argparse.Namespace) -> Plan:
    """Tiny-ImageNet: train/WNID/images/*, val/images/*, val/val_annotations.txt.

    Labels follow the sorted ids of wnids.txt. A class has the first name that words.txt
    gives its id, followed by the id if two names are equal.
    """
    root = args.source
    for flag in ("generator", "class_names"):
        if getattr(args, flag):
            reason = "Tiny-ImageNet has real images and names its classes; leave it out"
            raise RequestError(f"--{flag}: {reason} (a pool needs --layout=folders)")
    top, texts = _tiny_imagenet_tables(root, others)
    wnids = sorted(texts["wnids.txt"].split())
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    truth = _table(texts["val/val_annotations.txt"])
    # A wnid without a row in words.txt is its own word.
    words = _table(texts["words.txt"])
    names = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    items, ignored = [], Counter()
    for file in files:
        match file.path.removeprefix(top).split("/"):
            case ["train", wnid, "images", _]:
                split = "train"
            case ["val", "images", name]:
                split, wnid = "test", truth.get(name)
            case ["test", *_]:
                ignored["Tiny-ImageNet's test images have no labels"] += 1
                continue
            case _:
                ignored["outside train and val"] += 1
                continue
        if wnid not in labels:
            listed = f"has the class {wnid}, but wnids.txt has not"
            reason = listed if wnid else "is not in val/val_annotations.txt"
            raise RequestError(f"{file.path} {reason}; unpack the archive again")
        items.append(Item(file, split, labels[wnid], None))
    if not items:
        folders = "train/WNID/images or val/images"
        raise RequestError(f"--source={root} has no images in {folders}")
    return Plan(
        items,
        class_names=tuple(
            name if names.count(name) == 1 else f"{name} ({wnid})"
            for name, wnid in zip(names, wnids, strict=True)
        ),
        generators={},
        licence="not stated; for research, as ImageNet's",
        source="Tiny-ImageNet (Stanford CS231N), after ImageNet by J. Deng et al. 2009",
        ignored=ignored,
    )


LAYOUTS: dict[str, Callable[[Files, Files, argparse.Namespace], Plan]] = {
    "cifake": cifake_plan,
    "folders": folders_plan,
    "tiny_imagenet": tiny_imagenet_plan,
}


def _tiny_imagenet_tables(root: str, others: Files) -> tuple[str, dict[str, str]]:
    """Returns the top folder ("" or with a slash at its end), and the texts by name."""
    by_path = {file.path: file for file in others}
    tops = [p.removesuffix("wnids.txt") for p in by_path if p.endswith("wnids.txt")]
    top = min(tops, key=len, default="")
    texts = {}
    for name in ("wnids.txt", "words.txt", "val/val_annotations.txt"):
        if top + name not in by_path:
            archive = "tiny-imagenet-200.zip or the folder that it unpacks to"
            raise RequestError(f"--source={root} has no {name}; give {archive}")
        try:
            texts[name] = by_path[top + name].read().decode(errors="replace")
        except Unreadable as e:
            raise RequestError(f"{top}{name} cannot be read: {e}") from None
    return top, texts


def _table(text: str) -> dict[str, str]:
    """Returns {first column: second column} of lines with tabs."""
    rows = (line.split("\t") for line in text.splitlines())
    return {row[0]: row[1] for row in rows if len(row) > 1}


def _unwrap(paths: list[list[str]], generator: str | None) -> list[list[str]]:
    """Removes the one folder that zips often wrap around everything."""
    wrapped = len({p[0] if p else "" for p in paths}) == 1 and all(
        len(p) == 3 or (len(p) == 2 and generator and p[0] not in SPLITS) for p in paths
    )
    return [p[1:] for p in paths] if wrapped else paths
