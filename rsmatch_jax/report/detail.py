"""One run: what its folder holds beside its result."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from rsmatch_jax import files
from rsmatch_jax.errors import RequestError
from rsmatch_jax.metrics import mistakes
from rsmatch_jax.report.collect import Run, read_lines
from rsmatch_jax.runs import workdir

QUEUE, GRADCAM, TSNE = workdir.QUEUE_PICTURE, "gradcam.png", "tsne.png"
# Pictures that a run, or a command after it, has drawn: what they show.
PICTURES = {
    QUEUE: "What the queue holds",
    GRADCAM: "What the networks look at",
    TSNE: "Features of unlabelled images",
}
COMMANDS = {
    GRADCAM: "python -m rsmatch_jax.analysis.explain --workdir={folder}",
    TSNE: "python -m rsmatch_jax.analysis.tsne --workdir={folder}",
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """png: its bytes. facts: what stands in the JSON file beside it, if there is one;
    "step" is that of the checkpoint it was drawn from."""

    png: bytes
    facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Detail:
    """lines: of metrics.jsonl. class_names: numbers where the run does not tell them.
    confusion: int64 [K, K], row = truth. pictures: by file name. Of what is not there
    None, or nothing."""

    run: Run
    result: Mapping[str, Any]
    lines: tuple[Mapping[str, Any], ...]
    class_names: tuple[str, ...]
    confusion: np.ndarray | None
    mistakes: mistakes.Mistakes | None
    pictures: Mapping[str, Picture]


def read(run: Run) -> Detail:
    """Raises RequestError where a file of the run is broken."""
    confusion = _confusion(os.path.join(run.folder, workdir.CONFUSION_FILE))
    return Detail(
        run=run,
        result=workdir.read_result(run.folder),
        lines=read_lines(run.folder),
        class_names=_class_names(run.folder, confusion),
        confusion=confusion,
        mistakes=mistakes.read(os.path.join(run.folder, workdir.MISTAKES_FILE)),
        pictures=_pictures(run.folder),
    )


def _confusion(path: str) -> np.ndarray | None:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise RequestError(
            f"{path} cannot be read: {e}. Move it away: the next evaluation makes it"
        ) from None


def _class_names(folder: str, confusion: np.ndarray | None) -> tuple[str, ...]:
    path = os.path.join(folder, workdir.DATA_FILE)
    if not os.path.exists(path):  # of an earlier version
        return tuple(map(str, range(0 if confusion is None else len(confusion))))
    try:
        return tuple(map(str, workdir.read_data(folder)["class_names"]))
    except (KeyError, TypeError) as e:
        raise RequestError(
            f"{path} cannot be read ({e!r}); restore it, or move it away"
        ) from None


def _pictures(folder: str) -> dict[str, Picture]:
    found = {}
    for name in PICTURES:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            with open(path, "rb") as f:
                png = f.read()
            facts = files.read_json(os.path.splitext(path)[0] + ".json")
            found[name] = Picture(png, facts or {})
    return found
