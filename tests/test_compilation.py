"""Where compiled programs are kept."""

import jax
import pytest

from rsmatch_jax import compilation

KEYS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def restored():
    before = {key: getattr(jax.config, key) for key in KEYS}
    yield
    for key, value in before.items():
        jax.config.update(key, value)


def test_compiled_programs_lie_beside_the_decoded_arrays(tmp_path, restored):
    jax.config.update("jax_compilation_cache_dir", None)
    compilation.use_cache(str(tmp_path))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "compiled")


def test_a_place_that_the_user_chose_stays(tmp_path, restored):
    jax.config.update("jax_compilation_cache_dir", "/mine")
    compilation.use_cache(str(tmp_path))
    assert jax.config.jax_compilation_cache_dir == "/mine"
