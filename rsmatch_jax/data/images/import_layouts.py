"""Layouts of image collections: what their folders and file names mean."""

import argparse
import os
import re
from collections import Counter
from collections.abc import Callable

from rsmatch_jax.data.images import label_table
from rsmatch_jax.data.images.class_folders import folders_plan, make_plan
from rsmatch_jax.data.images.image_source import Unreadable
from rsmatch_jax.data.images.import_plan import Files, Item, Plan
from rsmatch_jax.errors import RequestError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer")
CIFAR10 += ("dog", "frog", "horse", "ship", "truck")
_CIFAKE_FILE = re.compile(r"\d+(?: \((\d+)\))?\.jpe?g", re.IGNORECASE)


def cifake_plan(files: Files, others: Files, args: argparse.Namespace) -> Plan:
    """CIFAKE's names: NNNN.jpg is airplane, `NNNN (k).jpg` class k - 1 (2 to 10)."""
    for flag in ("generators", "class_names"):
        if getattr(args, flag):
            reason = "CIFAKE has one generator, and CIFAR-10's classes; leave it out"
            raise RequestError(f"--{flag}: {reason}")
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


def tiny_imagenet_plan(files: Files, others: Files, args: argparse.Namespace) -> Plan:
    """Tiny-ImageNet: train/WNID/images/*, val/images/*, val/val_annotations.txt.

    Labels follow the sorted ids of wnids.txt. A class has the first name that words.txt
    gives its id, followed by the id if two names are equal.
    """
    root = args.source
    for flag in ("generator", "generators", "class_names"):
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


def table_plan(args: argparse.Namespace) -> Plan:
    """A CSV with the columns path and label, in place of class folders."""
    if args.generators:
        raise RequestError("--generators names folders; with a CSV pass --generator")
    notes: list[str] = []
    pairs = label_table.labelled(args.source, note=notes.append)
    rows = [(file, "train", name, "") for file, name in pairs]
    generators = [args.generator] if args.generator else []
    return make_plan(rows, [], generators, args, notes)


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
