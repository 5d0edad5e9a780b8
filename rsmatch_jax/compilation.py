"""The persistent compilation cache: a second start need not compile again."""

import os

import jax

from rsmatch_jax.data import array_cache


def use_cache(cache_dir: str | None):
    """Keeps compiled programs in <cache_dir>/compiled (None: the user's cache folder),
    unless JAX has been told of another place or of none (JAX_COMPILATION_CACHE_DIR,
    JAX_ENABLE_COMPILATION_CACHE). JAX itself tells programs apart by content, version
    and device."""
    if jax.config.jax_compilation_cache_dir is None:
        folder = os.path.join(array_cache.default_cache_dir(cache_dir), "compiled")
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
