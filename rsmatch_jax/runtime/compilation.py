"""Compiles programs before the first step, with measured options, and caches them."""

import contextlib
import ctypes
import functools
import os
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax

from rsmatch_jax import files, progress

K = TypeVar("K")
SECONDS = "seconds.json"  # {what was compiled: seconds}, in the cache
FROM_CACHE = 3.0  # seconds; what takes less was compiled before

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


@contextlib.contextmanager
def shown(name: str) -> Generator[None]:
    """Says that `name` is being compiled, for how long, and how long it will take by
    the last time, which is noted beside the compiled programs."""
    # pyrefly: ignore[missing-attribute]: as above
    path = os.path.join(jax.config.jax_compilation_cache_dir or "", SECONDS)
    try:
        before = {k: float(v) for k, v in (files.read_json(path) or {}).items()}
    except (ValueError, TypeError):  # a damaged note
        before = {}
    begin = time.monotonic()
    with progress.busy(f"compiling the {name.split()[0]}", before.get(name)):
        yield
    seconds = time.monotonic() - begin
    if seconds > FROM_CACHE and os.path.dirname(path):
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            files.write_json(path, {**before, name: round(seconds, 1)})


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
