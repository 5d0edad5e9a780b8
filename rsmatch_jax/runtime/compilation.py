"""Compiling: ahead of the first step, with options that were measured, and kept for the
next start."""

import contextlib
import ctypes
import os
from typing import Any

import jax

from rsmatch_jax import files

# By `python -m rsmatch_jax.bench flags`. On a CPU XLA's convolutions by YNNPACK take
# half as long again as those by Eigen, and a third more memory (jax 0.10).
OPTIONS = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": ""}}


def use_cache(cache_dir: str | None):
    """Keeps compiled programs in <cache_dir>/compiled (None: the user's cache folder),
    unless JAX has been told of another place or of none (JAX_COMPILATION_CACHE_DIR,
    JAX_ENABLE_COMPILATION_CACHE). JAX itself tells programs apart by content, version
    and device."""
    if jax.config.jax_compilation_cache_dir is None:
        folder = os.path.join(files.default_cache_dir(cache_dir), "compiled")
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def compiled(lowered: jax.stages.Lowered, platform: str) -> jax.stages.Compiled:
    """The program for devices of a platform, with this package's options for it.

    It takes arguments of the shapes that it was lowered for and no others: nothing is
    compiled again behind one's back.
    """
    options: dict[str, Any] = OPTIONS.get(platform, {})
    try:
        program = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        if not options:
            raise
        # Speed and rounding are all that they are about: a jaxlib that knows one no
        # more, or takes other values, does without. What else is wrong it says again.
        program = lowered.compile()
    _give_back_memory()
    return program


def _give_back_memory():
    """The compiler leaves some hundred MB of heap that it has freed and C's library has
    not."""
    with contextlib.suppress(AttributeError, OSError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
