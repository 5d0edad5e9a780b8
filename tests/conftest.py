"""Four CPU devices, strict ranks, a compilation cache that outlives the run.

Most of a test's time goes into compiling programs that run a few times. These options
make that three times faster, and leave what XLA does before as it is. OPTIMIZED=1
compiles as for users.
"""

import gc
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=4"
    + (
        " --xla_backend_optimization_level=0"
        " --xla_cpu_use_fusion_emitters=false"
        " --xla_cpu_enable_concurrency_optimized_scheduler=false"
        " --xla_cpu_parallel_codegen_split_count=1"
    )
    * ("OPTIMIZED" not in os.environ)
)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir",
    os.path.join(os.path.dirname(os.path.dirname(__file__)), ".jax_cache"),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="module", autouse=True)
def free_programs():
    """Every compiled program holds some hundred memory maps, of which a process may
    have 65,530: a worker that kept those of all files would be killed."""
    yield
    jax.clear_caches()
    gc.collect()
