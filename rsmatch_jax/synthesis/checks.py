"""Checks that the commands which make pools share."""

import math

from rsmatch_jax.errors import RequestError


def check_range(flag: str, value: float, low: float, high: float = math.inf):
    """Raises RequestError unless low <= value <= high and the value is finite."""
    if not (math.isfinite(value) and low <= value <= high):
        most = "or more" if high == math.inf else f"to {high}"
        raise RequestError(f"--{flag}={value} cannot work: give {low} {most}")


def tfds_writer(hint: str = ""):
    """Returns the module that writes TFDS folders.

    Raises:
        RequestError: TensorFlow is not installed; hint: another way out.
    """
    try:
        from rsmatch_jax.data.stores import tf_write  # lazy: drawing needs no TF
    except ImportError as e:
        raise RequestError(
            f"writing a pool needs TensorFlow and tensorflow-datasets ({e}): "
            f"pip install -r requirements.txt{hint}"
        ) from e
    return tf_write
