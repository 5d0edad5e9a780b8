"""The files that an evaluation leaves in a workdir."""

import io
import os

import jax
import numpy as np

from rsmatch_jax import files
from rsmatch_jax.data import rs_ssl
from rsmatch_jax.metrics import measure, queue_picture
from rsmatch_jax.runs import workdir
from rsmatch_jax.state import PyTree


def write(
    folder: str,
    step: int,
    measured: measure.Measured,
    queue: PyTree,
    task: rs_ssl.Task,
) -> np.ndarray | None:
    """Writes the confusion matrix, the mistakes and the picture of the queue.

    Args:
        queue: the CSQueue; any value if the method has none.
    Returns:
        The picture, uint8 [H, W, 3]; None if there is no queue or it is empty.
    """
    confusion = io.BytesIO()
    np.save(confusion, measured.confusion)
    for name, content in (
        (workdir.CONFUSION_FILE, confusion.getvalue()),
        (workdir.MISTAKES_FILE, measured.mistakes.to_bytes()),
    ):
        files.write_bytes(os.path.join(folder, name), content)
    if not measured.figures["queue_fill"]:
        return None
    return queue_picture.draw_queue(
        os.path.join(folder, workdir.QUEUE_PICTURE),
        jax.device_get(queue),
        task,
        f"CSQueue at step {step}",
    )
