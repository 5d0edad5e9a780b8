"""TensorFlow as this package uses it: for input alone.

Every other `tf_*.py` takes it from here. The environment must be set before TensorFlow
loads, so this file, unlike all others, does something on import.
"""

import os

# oneDNN rounds differently from machine to machine, and announces itself four times.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf  # noqa: E402

tf.config.set_visible_devices([], "GPU")  # the accelerator belongs to JAX

__all__ = ["tf"]
