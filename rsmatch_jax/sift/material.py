"""What is sifted: pictures of unknown origin, and the real ones that they are compared
with."""

import argparse
import contextlib
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from rsmatch_jax.data import rs_ssl, user_parts
from rsmatch_jax.data.images import (
    compression,
    image_files,
    image_source,
    picture_store,
    user_pictures,
)
from rsmatch_jax.data.images.compression import Jpeg
from rsmatch_jax.data.images.image_source import File
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.deploy import frozen, saved
from rsmatch_jax.errors import RequestError
from rsmatch_jax.sift.folders import Source

Images = rs_ssl.Images
PARTS = ("images", "held_out", "context")
SIZE = 32  # pixels a side, without a run
_BATCH = 64  # of pictures that become a network's input


@dataclasses.dataclass(frozen=True)
class Predicted:
    """A run's outputs. classes: str [N]. probabilities: float32 [N], of these classes.
    scores: of PARTS, float32, of being synthetic; {} without a detector."""

    classes: np.ndarray
    probabilities: np.ndarray
    scores: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Material:
    """Pictures of one size, all uint8 [.., S, S, 3] or encoded.

    images: N pictures to sift; names: their paths; origins: int32 [N], as in
    rs_ssl.Task, for figures alone; sources: where they lie, None if in no
    files or if nobody asks.
    labelled: L real pictures that a run trains on; classes: int [L]. held_out: H real
    ones that train nothing. context: further unlabelled pictures, which only help to
    tell how real ones differ.
    """

    names: Sequence[str]
    images: Images
    class_names: Sequence[str]
    labelled: Images
    classes: np.ndarray
    held_out: Images
    context: Images
    origins: np.ndarray
    sources: Sequence[Source] | None
    predicted: Predicted | None = None
    step: int | None = None
    notes: tuple[str, ...] = ()


def of_places(args: argparse.Namespace, stack: contextlib.ExitStack) -> Material:
    """Reads the pictures in --labeled, --unlabeled and --test, without a run."""
    places = user_parts.Places(
        args.labeled, args.unlabeled, args.test, args.origins, args.cache_dir
    )
    labelled, tested, collected = user_parts.read(
        places, args.size or SIZE, encode=False, alike=True
    )
    names = collected.names.tolist()
    known = user_pictures.origins(
        args.origins, names, labelled.class_names, collected.left_out
    )
    nothing = collected.pictures.images[:0]
    parts = labelled, tested, collected, known
    notes = [note for part in parts if part is not None for note in part.notes]
    held_out = {} if tested is None else {"test": tested.files}
    notes += user_parts.overlaps(labelled.files, collected.files, held_out)
    return Material(
        names=names,
        images=collected.pictures.images,
        class_names=labelled.class_names,
        labelled=labelled.pictures.images,
        classes=labelled.labels,
        held_out=nothing if tested is None else tested.pictures.images,
        context=nothing,
        origins=known.origins,
        sources=_sources(names, args.unlabeled, args, stack),
        notes=tuple(notes),
    )


def of_run(args: argparse.Namespace, stack: contextlib.ExitStack) -> Material:
    """Reads a run's unlabelled pictures, or the images named, and predicts them."""
    run = saved.load(args.workdir, args.step or "last", trust_code=args.trust_code)
    model = frozen.Model(run, _BATCH)
    places = saved.places(args)
    task = saved.load_task(run, places)
    material = _of_task(task)
    if args.images:
        material = _of_files(material, model, args.images, task.compressed)
    elif task.files:
        unlabeled = places.get("unlabeled") or run.exp.config.data.unlabeled
        sources = _sources(material.names, unlabeled, args, stack)
        material = dataclasses.replace(material, sources=sources)
    predicted = _predict(model, material)
    return dataclasses.replace(material, predicted=predicted, step=model.step)


def _of_task(task: rs_ssl.Task) -> Material:
    """A task's unlabelled pictures: a user's collected ones, or all but the labelled
    ones of a benchmark."""
    count = len(task.unl_labels)
    begin = len(task.split.unlabeled_real if task.files else task.lab_images)
    rows = np.arange(begin, count)
    if "unlabelled" in task.files:
        names = task.files["unlabelled"].names[begin:].tolist()
    else:
        names = [f"unlabelled/{row:0{len(str(count))}d}" for row in rows]
    images = task.unl_images
    return Material(
        names=names,
        images=images[begin:] if isinstance(images, np.ndarray) else images.take(rows),
        class_names=task.class_names,
        labelled=task.lab_images,
        classes=task.lab_labels,
        held_out=arrays.joined(
            [(x, np.arange(len(x))) for x in (task.test_images, task.val_images)]
        ),
        context=arrays.take(images, rows[:0]),
        origins=task.unl_origins[begin:],
        sources=None,
    )


def _of_files(
    material: Material,
    model: frozen.Model,
    images: Sequence[str],
    compressed: Sequence[Jpeg | None],
) -> Material:
    """Pictures of a command line in place of the run's, which become the context.
    compressed: how the run's are stored, as far as it is known."""
    notes: list[str] = []
    paths = image_files.find(images, notes.append)
    stored_as = _stored_as(model, paths, compressed, notes) if compressed else ()
    loaded = [x for batch in model.open(paths, stored_as=stored_as) for x in batch]
    readable = [(x, x.pixels) for x in loaded if x.pixels is not None]
    if count := sum(compression.CHANGE in x.changes for x in loaded):
        notes.append(f"the images named: {compression.CHANGE} ({count})")
    notes += [f"{x.path} is left out: {x.reason}" for x in loaded if x.pixels is None]
    if not readable:
        raise RequestError("none of the images can be read:\n" + "\n".join(notes))
    return dataclasses.replace(
        material,
        names=[image.path for image, _ in readable],
        images=np.stack([pixels for _, pixels in readable]),
        context=material.images,
        origins=np.full(len(readable), rs_ssl.UNKNOWN, np.int32),
        sources=[
            Source(x.path, functools.partial(image_source.read_file, x.path))
            for x, _ in readable
        ],
        notes=tuple(notes),
    )


def _stored_as(
    model: frozen.Model,
    paths: Sequence[str],
    compressed: Sequence[Jpeg | None],
    notes: list[str],
) -> list[Jpeg | None]:
    """Returns how to compress files once more, like the run's pictures, if the run made
    its own alike; adds notes about what stays unlike."""
    files = [File(x, functools.partial(image_source.read_file, x), x) for x in paths]
    these = picture_store.examine(files, "the images named").compressed
    plan: list[Jpeg | None] = compression.alike(these, compressed)
    run, named = "the run's unlabelled pictures", "the images named"
    unlike = {(run, named): compression.alike(compressed, these)}
    if not model.run.exp.config.data.same_compression:
        unlike[named, run] = plan
        plan = [None] * len(paths)
    for (less, more), differing in unlike.items():
        share = np.mean([*map(bool, differing)])
        if share >= user_parts.UNLIKE:
            notes.append(
                f"warning: {share:.0%} of {less} are compressed less than {more}, "
                "which tells them apart whatever made them; sift them without a run "
                "(--labeled, --unlabeled), which stores them alike"
            )
    return plan


def _sources(
    names: Sequence[str],
    unlabeled: str,
    args: argparse.Namespace,
    stack: contextlib.ExitStack,
) -> list[Source] | None:
    """Where each collected picture lies; only --link and --copy need to know."""
    if not (args.link or args.copy):
        return None
    listed = user_pictures.unlabelled(stack, unlabeled)
    by_name = dict(zip(listed.names, listed.files, strict=True))
    return [Source(by_name[name].place, by_name[name].read) for name in names]


def _predict(model: frozen.Model, material: Material) -> Predicted:
    rows = min(_BATCH, max(len(material.images), 1))

    def outputs(images: Images):
        starts = range(0, len(images), rows)
        batches = (np.asarray(images[start : start + rows]) for start in starts)
        return list(model.predict_batches(batches, rows))

    of_images = outputs(material.images)
    probabilities = np.concatenate([x.probabilities for x in of_images])
    scores = {}
    for part in PARTS if "detector" in model.parts else ():
        batches = of_images if part == "images" else outputs(getattr(material, part))
        of_batches = [np.zeros(0, np.float32)]
        of_batches += [s for b in batches if (s := b.synthetic_scores) is not None]
        scores[part] = np.concatenate(of_batches)
    return Predicted(
        classes=np.array(model.class_names)[probabilities.argmax(1)],
        probabilities=probabilities.max(1),
        scores=scores,
    )
