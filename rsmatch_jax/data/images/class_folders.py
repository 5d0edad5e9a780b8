"""The layout `folders`: a folder per class, below splits, generators or nothing."""

import argparse
import dataclasses
import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from rsmatch_jax.data.images import kinds
from rsmatch_jax.data.images.folder_tree import some
from rsmatch_jax.data.images.image_source import File
from rsmatch_jax.data.images.import_plan import (
    NO_LABEL,
    SPLITS,
    UNLABELLED,
    Files,
    Item,
    Plan,
)
from rsmatch_jax.data.stores.dataset_folder import natural_key
from rsmatch_jax.errors import RequestError

# In lower case. What a folder of another name means is never guessed.
SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
    **dict.fromkeys(("unlabelled", "unlabeled"), UNLABELLED),
}
FORMS = "class/img, train|test/class/img or, with --generators, generator/class/img"


@dataclasses.dataclass(frozen=True)
class _Placed:
    """An image, and the folders from the source down to it."""

    file: File
    folders: tuple[str, ...]


def split_of(folder: str) -> str | None:
    """Returns the split that a folder's name stands for, or None."""
    return SPLIT_OF.get(folder.lower())


def folders_plan(files: Files, others: Files, args: argparse.Namespace) -> Plan:
    """Class folders, which may lie in folders per split or per generator."""
    images = [_Placed(file, tuple(file.path.split("/")[:-1])) for file in files]
    without_picture = {
        tuple(f.path.split("/")[:-1]) for f in others if not kinds.is_hidden(f.path)
    }
    notes: list[str] = []
    if wrapper := _wrapper(images, args.generators):
        notes.append(f"everything lies in the folder {wrapper}, which was entered")
        images = [_Placed(image.file, image.folders[1:]) for image in images]
        without_picture = {f[1:] for f in without_picture if f[:1] == (wrapper,)}
    labelled, unlabelled = _part(images, args)
    depth = _depth(labelled, unlabelled, args)
    tops = sorted({i.folders[0] for i in labelled}, key=natural_key)
    if depth == 1:
        notes += _check_classes(tops, args)
    else:
        _check_tops(tops, args)
    without_picture = {f[:depth] for f in without_picture if len(f) >= depth}
    without_picture -= {image.folders[:depth] for image in images}
    if without_picture:
        names = sorted(map("/".join, without_picture), key=natural_key)
        notes.append(f"folders without a picture, left out: {some(names)}")
    generators = args.generators or ([args.generator] if args.generator else ())
    rows = []
    for image in labelled:
        top = image.folders[0] if depth == 2 else ""
        split = "train" if top in args.generators else split_of(top) or "train"
        rows.append((image.file, split, image.folders[-1], top))
    return make_plan(rows, [i.file for i in unlabelled], generators, args, notes)


def make_plan(
    rows: Sequence[tuple[File, str, str, str]],
    unlabelled: Sequence[File],
    generators: Sequence[str],
    args: argparse.Namespace,
    notes: Iterable[str],
) -> Plan:
    """Returns the plan of images with class names.

    rows: (file, split, class, generator, of no meaning if there is at most one).
    """
    notes = list(notes)
    used = {name for _, _, name, _ in rows}
    unlisted = sorted(used - set(args.class_names))
    if args.class_names and unlisted:
        wrong = f"the classes {some(unlisted)} are not in it"
        raise RequestError(f"--class_names: {wrong}; rename them, or correct the file")
    class_names = args.class_names or sorted(used, key=natural_key)
    labels = {name: label for label, name in enumerate(class_names)}
    items, ignored = [], Counter()
    for file, split, name, top in rows:
        if generators and split != "train":
            ignored[f"{split} split, a pool has none"] += 1
            continue
        many = len(generators) > 1
        generator = (generators.index(top) if many else 0) if generators else None
        items.append(Item(file, split, labels[name], generator))
    if generators and unlabelled:
        ignored[f"{UNLABELLED}, a pool has none"] = len(unlabelled)
    elif unlabelled:
        items += [Item(file, UNLABELLED, NO_LABEL, None) for file in unlabelled]
    return Plan(
        items,
        class_names=tuple(labels),
        generators=dict.fromkeys(generators, "not stated; images imported from disk"),
        licence="not stated",
        source=f"images imported from {os.path.basename(args.source)}",
        ignored=ignored,
        notes=(*notes, *_notes_on_classes(items, tuple(labels))),
    )


def _notes_on_classes(items: Sequence[Item], names: Sequence[str]) -> list[str]:
    """Returns lines about classes that look like a mistake."""
    notes, spellings = [], defaultdict(list)
    for name in names:
        spellings[name.casefold()].append(name)
    for same in spellings.values():
        if len(same) > 1:
            notes.append(f"classes that differ in case alone: {', '.join(same)}")
    if len(names) == 1 and items and items[0].generator is None:
        notes.append(f"there is one class alone, {names[0]}")
    for split in SPLITS:
        labels = {item.label for item in items if item.split == split} - {NO_LABEL}
        absent = [name for label, name in enumerate(names) if label not in labels]
        if labels and absent:
            notes.append(f"{split} has no pictures of {some(absent)}")
    return notes


def _wrapper(images: Sequence[_Placed], generators: Sequence[str]) -> str | None:
    """Returns the one folder that archives often wrap around everything, or None."""
    tops = {image.folders[0] for image in images if len(image.folders) > 1}
    if len(tops) != 1 or any(len(image.folders) < 2 for image in images):
        return None
    (top,) = tops
    return None if split_of(top) or top in generators else top


def _part(
    images: Sequence[_Placed], args: argparse.Namespace
) -> tuple[list[_Placed], list[_Placed]]:
    """Returns the images in class folders, and the unlabelled ones."""
    parts: tuple[list[_Placed], list[_Placed]] = ([], [])
    for image in images:
        top = image.folders[0] if image.folders else ""
        is_unlabelled = split_of(top) == UNLABELLED
        parts[is_unlabelled].append(image)
        inner = image.folders[1] if len(image.folders) > 1 else ""
        if not is_unlabelled and split_of(inner) == UNLABELLED:
            reason = f"holds the folder {inner}, which cannot be a class"
            raise RequestError(
                f"--source={args.source}: {top} {reason}; move it beside {top}"
            )
    _check_one_folder_per_split((i.folders[0] for i in parts[1]), args)
    return parts


def _depth(
    labelled: Sequence[_Placed],
    unlabelled: Sequence[_Placed],
    args: argparse.Namespace,
) -> int:
    """Returns how many folders lie above each image, 1 or 2; or RequestError."""
    source = f"--source={args.source}"
    if not labelled:
        reason = "has no images at all"
        if unlabelled:
            reason = f"has {len(unlabelled)} unlabelled images, none in class folders"
        raise RequestError(f"{source} {reason}; {FORMS}")
    depths = {len(image.folders): image.file.path for image in labelled}
    if set(depths) == {0}:
        raise RequestError(
            f"{source} has {len(labelled)} images such as {depths[0]} in no class "
            "folder; put them in folders named by class, write a CSV with the columns "
            "path,label beside them and pass that, or put them in a folder unlabelled"
        )
    if depths.keys() not in ({1}, {2}):
        examples = " and ".join(depths[depth] for depth in sorted(depths))
        raise RequestError(f"{source} must hold {FORMS}, but has {examples}")
    return min(depths)


def _check_classes(tops: Sequence[str], args: argparse.Namespace) -> list[str]:
    """Returns lines about class folders that are named like a split."""
    source = f"--source={args.source}"
    if args.generators:
        reason = f"{some(tops)} hold images and no class folders"
        raise RequestError(f"{source}: {reason}; leave out --generators")
    splits = [top for top in tops if split_of(top)]
    if splits == list(tops):
        raise RequestError(
            f"{source}: {some(splits)} hold images in no class folder; put these in "
            f"folders named by class, as in {splits[0]}/cat/1.jpg, or in a folder "
            "unlabelled"
        )
    if splits:
        return [f"taken for classes, as the folders beside them: {some(splits)}"]
    return []


def _check_tops(tops: Sequence[str], args: argparse.Namespace):
    """Raises RequestError unless the folders above the classes are all splits, or all
    named by --generators."""
    source = f"--source={args.source}"
    named = [top for top in tops if top in args.generators]
    splits = [top for top in tops if split_of(top) and top not in named]
    unknown = [top for top in tops if top not in named and top not in splits]
    if unknown:
        above = f"{', '.join(unknown)} stand above the class folders"
        every = shlex.quote(",".join([*named, *unknown]))
        instead = " in place of --generator" if args.generator else ""
        beside = f" (beside {', '.join(splits)})" if splits else ""
        raise RequestError(
            f"{source}: {above}{beside} and name no split. If they name what made the "
            f"images, pass --generators={every}{instead}; if they name splits, rename "
            "them to train, test, validation or unlabelled; otherwise move the class "
            "folders up"
        )
    if absent := sorted(set(args.generators) - set(named)):
        reason = f"there is no folder {some(absent)} above the classes"
        raise RequestError(f"--generators: {reason}, only {some(tops)}")
    if named and splits:
        both = f"the generators {some(named)} and the splits {some(splits)}"
        reason = f"has {both}, but a dataset is a pool or real"
        raise RequestError(f"{source} {reason}; import them one by one")
    _check_one_folder_per_split(splits, args)


def _check_one_folder_per_split(folders: Iterable[str], args: argparse.Namespace):
    by_split = defaultdict(set)
    for folder in folders:
        by_split[split_of(folder)].add(folder)
    for split, same in by_split.items():
        if len(same) > 1:
            both = " and ".join(sorted(same))
            reason = f"{both} stand both for the split {split}"
            raise RequestError(f"--source={args.source}: {reason}; keep one of them")
