"""Layouts of image collections: what their folders and file names mean."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence

from rsmatch_jax.data.images.image_source import File, Unreadable
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.errors import RequestError

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR10 = tuple(_CIFAR10.split())
_CIFAKE_FILE = re.compile(r"\d+(?: \((\d+)\))?\.jpe?g", re.IGNORECASE)
SPLITS = ("train", "test", "validation")
_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Images:
    """What a layout gets: files of a source and flags of the importer.

    root: the source's path. generator, class_names: as the flags.
    """

    files: Sequence[File]
    others: Sequence[File]
    root: str
    generator: str | None = None
    class_names: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Item:
    """An image to import. generator: None for a real dataset."""

    file: File
    split: str
    label: int
    generator: int | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a layout makes of the images.

    generators: name to how it was run; empty for a real dataset. ignored: reason to
    number of images.
    """

    items: list[Item]
    class_names: tuple[str, ...]
    generators: dict[str, str]
    licence: str
    source: str
    ignored: dict[str, int]


def cifake_plan(images: Images) -> Plan:
    """CIFAKE's names: NNNN.jpg is airplane, `NNNN (k).jpg` class k - 1 (2 to 10)."""
    items, ignored = [], Counter()
    for file in images.files:
        *folders, name = file.path.split("/")
        if "FAKE" not in [os.path.basename(images.root), *folders]:
            ignored["outside FAKE"] += 1
        elif "test" in folders:
            ignored["CIFAKE's test split"] += 1
        else:
            match = _CIFAKE_FILE.fullmatch(name)
            label = int(match[1] or 1) - 1 if match else -1
            if not 0 <= label < len(CIFAR10) or match[1] == "1":
                raise RequestError(
                    f"{file.path} is no name of CIFAKE's (NNNN.jpg or 'NNNN (k).jpg', "
                    "k from 2 to 10); for other images use --layout=folders"
                )
            items.append(Item(file, "train", label, 0))
    if not items:
        raise RequestError(
            f"--source={images.root} has no images in a folder FAKE; --layout=cifake "
            "reads CIFAKE's archive, for other images use --layout=folders"
        )
    how = "CIFAKE's own run of Stable Diffusion 1.4, per class of CIFAR-10"
    return Plan(
        items,
        class_names=CIFAR10,
        generators={images.generator or "stable-diffusion-1.4": how},
        licence="MIT, as the dataset's page states",
        source="CIFAKE: J. J. Bird and A. Lotfi 2023, arXiv:2303.14126, after CIFAR-10 "
        "by A. Krizhevsky 2009",
        ignored=ignored,
    )


def folders_plan(images: Images) -> Plan:
    """One folder per class, which may lie in one per split or per generator."""
    files, root, generator = images.files, images.root, images.generator
    paths = _unwrap([file.path.split("/")[:-1] for file in files], generator)
    depths = {len(path): file.path for path, file in zip(paths, files, strict=True)}
    if len(depths) != 1 or not depths.keys() <= {1, 2}:
        examples = " and ".join(depths.values()) or "no images at all"
        raise RequestError(
            f"--source={root} must hold class/img, train|test/class/img or "
            f"generator/class/img, but has {examples}"
        )
    tops = sorted({p[0] for p in paths}, key=natural_key) if 2 in depths else []
    has_splits = bool(tops) and set(tops) <= set(SPLITS)
    if tops and not has_splits and generator:
        raise RequestError(
            f"--source={root} has folders above the classes "
            f"({', '.join(tops[:_SHOWN])}), which name the generators: leave out "
            "--generator"
        )
    names = [generator] if generator else ([] if has_splits else tops)
    folders = {path[-1] for path in paths}
    unlisted = folders - set(images.class_names)
    if images.class_names and unlisted:
        raise RequestError(
            f"the class folders {', '.join(sorted(unlisted)[:_SHOWN])} are not in "
            "--class_names; rename them, or correct that file"
        )
    class_names = images.class_names or sorted(folders, key=natural_key)
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


def tiny_imagenet_plan(images: Images) -> Plan:
    """Tiny-ImageNet's archive: train/WNID/images/*.JPEG and val/images/*.JPEG.

    val/val_annotations.txt has the WordNet ids of the second. Labels follow the sorted
    ids of wnids.txt. A class has the first name that words.txt gives its id, followed
    by the id if two names are equal.
    """
    root = images.root
    for flag in ("generator", "class_names"):
        if getattr(images, flag):
            raise RequestError(
                f"--{flag}: Tiny-ImageNet is a dataset of real images and names its "
                "classes itself; leave it out (a pool needs --layout=folders)"
            )
    top, texts = _tiny_imagenet_tables(root, images.others)
    wnids = sorted(texts["wnids.txt"].split())
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    truth = _table(texts["val/val_annotations.txt"])
    # A wnid without a row in words.txt is its own word.
    words = _table(texts["words.txt"])
    names = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    items, ignored = [], Counter()
    for file in images.files:
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
            raise RequestError(
                f"{file.path}: its class {wnid} is not in wnids.txt"
                if wnid
                else f"{file.path} is not in val/val_annotations.txt; unpack the "
                "archive again"
            )
        items.append(Item(file, split, labels[wnid], None))
    if not items:
        raise RequestError(
            f"--source={root} has no images in train/WNID/images or val/images; is it "
            "Tiny-ImageNet's archive?"
        )
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


LAYOUTS: dict[str, Callable[[Images], Plan]] = {
    "cifake": cifake_plan,
    "folders": folders_plan,
    "tiny_imagenet": tiny_imagenet_plan,
}


def _tiny_imagenet_tables(
    root: str, others: Sequence[File]
) -> tuple[str, dict[str, str]]:
    """The top folder ("" or with a slash at its end), and the texts by name."""
    by_path = {file.path: file for file in others}
    tops = [p.removesuffix("wnids.txt") for p in by_path if p.endswith("wnids.txt")]
    top = min(tops, key=len, default="")
    texts = {}
    for name in ("wnids.txt", "words.txt", "val/val_annotations.txt"):
        if top + name not in by_path:
            raise RequestError(
                f"--source={root} has no {name}; --layout=tiny_imagenet reads "
                "tiny-imagenet-200.zip or the folder that it unpacks to"
            )
        try:
            texts[name] = by_path[top + name].read().decode(errors="replace")
        except Unreadable as e:
            raise RequestError(f"{top}{name} cannot be read: {e}") from None
    return top, texts


def _table(text: str) -> dict[str, str]:
    """First column to second column of lines with tabs."""
    rows = (line.split("\t") for line in text.splitlines() if "\t" in line)
    return {row[0]: row[1] for row in rows}


def _unwrap(paths: list[list[str]], generator: str | None) -> list[list[str]]:
    """Removes the one folder that zips often wrap around everything."""
    wrapped = len({p[0] if p else "" for p in paths}) == 1 and all(
        len(p) == 3 or (len(p) == 2 and generator and p[0] not in SPLITS) for p in paths
    )
    return [p[1:] for p in paths] if wrapped else paths
