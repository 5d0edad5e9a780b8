"""Four CPU devices, strict ranks, checked shapes, a lasting compilation cache."""

import gc
import os

from support import shapes, xla_flags

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = xla_flags.flags()

import jax
import jaxtyping
import pytest

# Before the modules are imported: from here on their calls check shapes and types.
# Not augment.tables, whose host code works on 25 MB.
CHECKED = [
    *("augment.on_device", "augment.ops", "augment.views"),
    *("losses", "methods", "models", "step"),
]
jaxtyping.install_import_hook(
    [f"rsmatch_jax.{name}" for name in CHECKED], f"{shapes.__name__}.check"
)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir",
    os.path.join(os.path.dirname(os.path.dirname(__file__)), ".jax_cache"),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="module", autouse=True)
def free_programs():
    """Frees the programs of a file. A compiled program holds some hundred memory maps,
    and a process may have 65,530: a worker with the programs of all files would die."""
    yield
    jax.clear_caches()
    gc.collect()
