"""Whether the images behind a run are still those that it began with."""

import hashlib

import numpy as np

from rsmatch_jax.data import rs_ssl
from rsmatch_jax.data.stores.encoded import EncodedImages

SAMPLE = 256  # images of each part; all of ImageNet would take minutes to read


def digest(task: rs_ssl.Task) -> str:
    """Returns a SHA-256 of up to SAMPLE evenly spaced images of each part of a task.

    Pixels of decoded images, files of encoded ones. With the split's index arrays it
    tells whether a dataset at another place is the same one.
    """
    sha = hashlib.sha256()
    for images in (task.lab_images, task.unl_images, task.val_images, task.test_images):
        sha.update(repr(images.shape).encode())
        rows = np.linspace(0, len(images) - 1, min(len(images), SAMPLE)).astype(int)
        for row in rows.tolist():
            if isinstance(images, EncodedImages):
                sha.update(images.read(row))
            else:
                sha.update(np.ascontiguousarray(images[row]).tobytes())
    return sha.hexdigest()
