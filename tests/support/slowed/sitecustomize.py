"""Slows the process that has this folder on its PYTHONPATH, as a slow CPU would.

SLOW_IMPORT: seconds before jax. SLOW_COMPILE: those in the first compilations, in their
order. SLOW_BATCH: in each batch of an evaluation. The process says if it imports
TensorFlow.
"""

import importlib.abc
import importlib.util
import os
import sys
import time


def seconds(name):
    return [float(text) for text in os.environ.get(name, "0").split(",")]


def slow_compilation(module):
    honest, left = module.compiled, seconds("SLOW_COMPILE")

    def compiled(*args, **kwargs):
        if left:
            time.sleep(left.pop(0))
        return honest(*args, **kwargs)

    module.compiled = compiled


def slow_batches(module):
    honest = module.Predictor._compiled

    def compiled(*args):
        time.sleep(*seconds("SLOW_BATCH"))
        return honest(*args)

    module.Predictor._compiled = compiled


SLOWED = {
    "tensorflow": lambda module: sys.stderr.write("imported tensorflow\n"),
    "rsmatch_jax.runtime.compilation": slow_compilation,
    "rsmatch_jax.metrics.measure": slow_batches,
}


class Finder(importlib.abc.MetaPathFinder):
    """Comes first, and changes modules that have been imported."""

    def find_spec(self, name, path, target=None):
        if name == "jax":
            time.sleep(*seconds("SLOW_IMPORT"))
        if name not in SLOWED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        run = spec.loader.exec_module

        def slowed(module):
            run(module)
            SLOWED[name](module)

        spec.loader.exec_module = slowed
        return spec


sys.meta_path.insert(0, Finder())
