"""TensorFlow for input only. Acts on import: TensorFlow reads the environment then."""

import os

# oneDNN rounds differently on different machines, and prints four lines at the start.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf  # noqa: E402

tf.config.set_visible_devices([], "GPU")  # the accelerator belongs to JAX

__all__ = ["tf"]
