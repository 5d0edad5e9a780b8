"""The layout `folders`: a folder per class, below splits, generators or nothing."""

import argparse
import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

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
_SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
    **dict.fromkeys(("unlabelled", "unlabeled"), UNLABELLED),
}
FORMS = "class/img, train|test/class/img or, with --generators, generator/class/img"

Folders = tuple[str, ...]  # from the source down to a file
Placed = list[tuple[File, Folders]]


def split_of(folder: str) -> str | None:
    """Returns the split that a folder's name stands for, or None."""
    return _SPLIT_OF.get(folder.lower())


def placed(
    files: Files, has_meaning: Callable[[str], object] = lambda folder: False
) -> tuple[Placed, str]:
    """Returns the files with their folders, and the one folder around all of these.

    Archives often have such a folder. It is left out of the folders; if there is none,
    or its name `has_meaning`, "" is returned and nothing left out.
    """
    pairs = [(file, _folders(file)) for file in files]
    (top, *others) = {folders[0] if len(folders) > 1 else "" for _, folders in pairs}
    if others or not top or has_meaning(top):
        return pairs, ""
    return [(file, folders[1:]) for file, folders in pairs], top


def _folders(file: File) -> Folders:
    return tuple(file.path.split("/")[:-1])


def folders_plan(files: Files, others: Files, args: argparse.Namespace) -> Plan:
    """Class folders, which may lie in folders per split or per generator."""
    if not files:
        raise _refused(args, f" has no images at all; {FORMS}")
    images, wrapper = placed(files, lambda f: split_of(f) or f in args.generators)
    notes: list[str] = []
    without_picture = {_folders(f) for f in others if not kinds.is_hidden(f.path)}
    if wrapper:
        notes.append(f"everything lies in the folder {wrapper}, which was entered")
        without_picture = {f[1:] for f in without_picture if f[:1] == (wrapper,)}
    labelled, unlabelled = _part(images, args)
    depth = _depth(labelled, unlabelled, args)
    tops = sorted({folders[0] for _, folders in labelled}, key=natural_key)
    if depth == 1:
        notes += _check_classes(tops, args)
    else:
        _check_tops(tops, args)
    without_picture = {f[:depth] for f in without_picture if len(f) >= depth}
    without_picture -= {folders[:depth] for _, folders in images}
    if without_picture:
        names = sorted(map("/".join, without_picture), key=natural_key)
        notes.append(f"folders without a picture, left out: {some(names)}")
    generators = args.generators or ([args.generator] if args.generator else ())
    rows = []
    for file, folders in labelled:
        top = folders[0] if depth == 2 else ""
        split = "train" if top in args.generators else split_of(top) or "train"
        rows.append((file, split, folders[-1], top))
    return make_plan(rows, [file for file, _ in unlabelled], generators, args, notes)


def make_plan(
    rows: Sequence[tuple[File, str, str, str]],
    unlabelled: Sequence[File],
    generators: Sequence[str],
    args: argparse.Namespace,
    notes: Sequence[str],
) -> Plan:
    """Returns the plan of images with class names.

    rows: (file, split, class, generator, of no meaning if there is at most one).
    """
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
    else:
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


def notes_on_case(names: Sequence[str]) -> list[str]:
    """Returns lines about classes of which the names differ in case alone."""
    spellings = defaultdict(list)
    for name in names:
        spellings[name.casefold()].append(name)
    doubtful = [", ".join(same) for same in spellings.values() if len(same) > 1]
    return [f"classes that differ in case alone: {same}" for same in doubtful]


def _notes_on_classes(items: Sequence[Item], names: Sequence[str]) -> list[str]:
    """Returns lines about classes that look like a mistake."""
    notes = notes_on_case(names)
    if len(names) == 1 and items and items[0].generator is None:
        notes.append(f"there is one class alone, {names[0]}")
    for split in SPLITS:
        labels = {item.label for item in items if item.split == split} - {NO_LABEL}
        absent = [name for label, name in enumerate(names) if label not in labels]
        if labels and absent:
            notes.append(f"{split} has no pictures of {some(absent)}")
    return notes


def _part(images: Placed, args: argparse.Namespace) -> tuple[Placed, Placed]:
    """Returns the images in class folders, and the unlabelled ones."""
    parts: tuple[Placed, Placed] = ([], [])
    for file, folders in images:
        top, inner = (*folders, "", "")[:2]
        is_unlabelled = split_of(top) == UNLABELLED
        parts[is_unlabelled].append((file, folders))
        if not is_unlabelled and split_of(inner) == UNLABELLED:
            reason = f"holds the folder {inner}, which cannot be a class"
            raise _refused(args, f": {top} {reason}; move it beside {top}")
    _check_one_folder_per_split((folders[0] for _, folders in parts[1]), args)
    return parts


def _depth(labelled: Placed, unlabelled: Placed, args: argparse.Namespace) -> int:
    """Returns how many folders lie above each image, 1 or 2; or RequestError."""
    if not labelled:
        reason = f"{len(unlabelled)} unlabelled images, none in class folders"
        raise _refused(args, f" has {reason}; {FORMS}")
    depths = {len(folders): file.path for file, folders in labelled}
    if set(depths) == {0}:
        raise _refused(
            args,
            f" has {len(labelled)} images such as {depths[0]} in no class folder; put "
            "them in folders named by class, write a CSV with the columns path,label "
            "beside them and pass that, or put them in a folder unlabelled",
        )
    if depths.keys() not in ({1}, {2}):
        examples = " and ".join(depths[depth] for depth in sorted(depths))
        raise _refused(args, f" must hold {FORMS}, but has {examples}")
    return min(depths)


def _check_classes(tops: Sequence[str], args: argparse.Namespace) -> list[str]:
    """Returns lines about class folders that are named like a split."""
    if args.generators:
        reason = f"{some(tops)} hold images and no class folders"
        raise _refused(args, f": {reason}; leave out --generators")
    splits = [top for top in tops if split_of(top)]
    if splits == list(tops):
        raise _refused(
            args,
            f": {some(splits)} hold images in no class folder; put these in folders "
            f"named by class, as in {splits[0]}/cat/1.jpg, or in a folder unlabelled",
        )
    return as_classes(splits)


def as_classes(splits: Sequence[str]) -> list[str]:
    """Returns a line about folders named like a split, if any, that are classes."""
    if not splits:
        return []
    return [f"taken for classes, as the folders beside them: {some(splits)}"]


def _check_tops(tops: Sequence[str], args: argparse.Namespace):
    """Raises RequestError unless the folders above the classes are all splits, or all
    named by --generators."""
    named = [top for top in tops if top in args.generators]
    splits = [top for top in tops if split_of(top) and top not in named]
    unknown = [top for top in tops if top not in named and top not in splits]
    if unknown:
        every = shlex.quote(",".join([*named, *unknown]))
        instead = " in place of --generator" if args.generator else ""
        beside = f" (beside {', '.join(splits)})" if splits else ""
        raise _refused(
            args,
            f": {', '.join(unknown)} stand above the class folders{beside} and name no "
            "split. If they name what made the images, pass "
            f"--generators={every}{instead}; if they name splits, rename them to "
            "train, test, validation or unlabelled; otherwise move the class folders "
            "up",
        )
    if absent := sorted(set(args.generators) - set(named)):
        reason = f"there is no folder {some(absent)} above the classes"
        raise RequestError(f"--generators: {reason}, only {some(tops)}")
    if named and splits:
        both = f"the generators {some(named)} and the splits {some(splits)}"
        reason = f"has {both}, but a dataset is a pool or real"
        raise _refused(args, f" {reason}; import them one by one")
    _check_one_folder_per_split(splits, args)


def _check_one_folder_per_split(folders: Iterable[str], args: argparse.Namespace):
    by_split = defaultdict(set)
    for folder in folders:
        by_split[split_of(folder)].add(folder)
    for split, same in by_split.items():
        if len(same) > 1:
            both = " and ".join(sorted(same))
            reason = f"{both} stand both for the split {split}"
            raise _refused(args, f": {reason}; keep one of them")


def _refused(args: argparse.Namespace, reason: str) -> RequestError:
    return RequestError(f"--source={args.source}{reason}")
