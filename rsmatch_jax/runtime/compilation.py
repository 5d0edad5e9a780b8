"""Compiles programs before the first step, with measured options, and caches them."""

import contextlib
import ctypes
import functools
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax

from rsmatch_jax import files

K = TypeVar("K")

# Measured by `python -m rsmatch_jax.bench flags` with jax 0.10: on a CPU, convolutions
# by YNNPACK take 1.5 times as long as those by Eigen, and a third more memory.
OPTIONS = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": ""}}


def use_cache(cache_dir: str | None):
    """Caches compiled programs in <cache_dir>/compiled; None = the user's cache folder.
    JAX_COMPILATION_CACHE_DIR and JAX_ENABLE_COMPILATION_CACHE win."""
    # pyrefly: ignore[missing-attribute]: JAX makes its options at run time
    if jax.config.jax_compilation_cache_dir is None:
        folder = os.path.join(files.default_cache_dir(cache_dir), "compiled")
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def all_compiled(
    lowered: Mapping[K, jax.stages.Lowered], platform: str
) -> dict[K, jax.stages.Compiled]:
    """Returns `compiled` of each, side by side."""
    one = functools.partial(compiled, platform=platform)
    with ThreadPoolExecutor(len(lowered)) as pool:
        return dict(zip(lowered, pool.map(one, lowered.values()), strict=True))


def compiled(lowered: jax.stages.Lowered, platform: str) -> jax.stages.Compiled:
    """Returns the program for devices of a platform, with this package's options."""
    options: dict[str, Any] = OPTIONS.get(platform, {})
    try:
        program = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        if not options:
            raise
        # The options only change speed and rounding, so a jaxlib that does not know one
        # goes without. Any other error occurs again.
        program = lowered.compile()
    # Gives the system some hundred MB that the compiler has freed in C's heap.
    with contextlib.suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    return program
