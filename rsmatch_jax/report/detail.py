"""One run: what its folder holds beside its result."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from rsmatch_jax import mistakes, workdir
from rsmatch_jax.errors import RequestError
from rsmatch_jax.report.runs import Run, read_lines

# Pictures that a run, or a command after it, has drawn; and what they show.
PICTURES = {
    workdir.QUEUE_PICTURE: "What the queue holds (a row per class; green frames are "
    "synthetic images, red ones real images taken for synthetic)",
    "gradcam.png": "What the networks look at (Grad-CAM++)",
    "tsne.png": "Features of unlabelled images (t-SNE; dots are real, crosses "
    "synthetic)",
}
MADE_BY = {
    "gradcam.png": "python -m rsmatch_jax.analysis.gradcam --workdir={folder}",
    "tsne.png": "python -m rsmatch_jax.analysis.tsne --workdir={folder}",
}


@dataclasses.dataclass(frozen=True)
class Detail:
    """lines: of metrics.jsonl. class_names: numbers where the run does not tell them.
    confusion: int64 [K, K], row = truth. pictures: {file name: PNG}. tsne: the figures
    beside that picture. Of what is not there None, or nothing."""

    run: Run
    result: Mapping[str, Any]
    lines: tuple[Mapping[str, Any], ...]
    class_names: tuple[str, ...]
    confusion: np.ndarray | None
    mistakes: mistakes.Mistakes | None
    pictures: Mapping[str, bytes]
    tsne: Mapping[str, Any] | None


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
        tsne=_json(os.path.join(run.folder, "tsne.json")),
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
    try:
        return tuple(workdir.read_data(folder)["class_names"])
    except (RequestError, KeyError):  # of an earlier version
        return tuple(map(str, range(0 if confusion is None else len(confusion))))


def _pictures(folder: str) -> dict[str, bytes]:
    found = {}
    for name in PICTURES:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            with open(path, "rb") as f:
                found[name] = f.read()
    return found


def _json(path: str) -> Mapping[str, Any] | None:
    try:
        with open(path) as f:
            return json.load(f)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise RequestError(f"{path} cannot be read: {e}; make it anew") from None
