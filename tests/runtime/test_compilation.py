"""Where compiled programs are cached, and with which options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsmatch_jax.runtime import compilation

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


@pytest.mark.parametrize("chosen", [None, "/mine"])
def test_compiled_programs_lie_beside_the_decoded_arrays(tmp_path, restored, chosen):
    """Unless the user chose another place."""
    jax.config.update("jax_compilation_cache_dir", chosen)
    compilation.use_cache(str(tmp_path))
    expected = chosen or str(tmp_path / "compiled")
    assert jax.config.jax_compilation_cache_dir == expected


def test_options_are_used_and_named_ones_only(monkeypatch):
    """They change nothing else; an option that this jaxlib lacks is left out."""
    conv = jax.jit(
        lambda x, w: jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    x, w = jnp.ones((8, 32, 32, 16)), jnp.ones((3, 3, 16, 32))
    lowered = conv.lower(x, w)
    ours = compilation.compiled(lowered, "cpu")
    plain = compilation.compiled(lowered, "tpu")  # no options for it
    if "ynn" in plain.as_text():  # a matter of jaxlib's version and the CPU
        assert "ynn" not in ours.as_text()
    np.testing.assert_allclose(ours(x, w), plain(x, w), rtol=1e-6)
    for bad in ({"xla_of_another_day": True}, {"xla_cpu_use_onednn": "perhaps"}):
        monkeypatch.setattr(compilation, "OPTIONS", {"cpu": bad})
        without = compilation.compiled(lowered, "cpu")
        np.testing.assert_array_equal(without(x, w), plain(x, w))


def test_error_that_options_do_not_cause_is_raised():
    """By the second try, which is without them."""
    tries = []

    class Lowered:
        def compile(self, compiler_options=None):
            tries.append(compiler_options)
            raise jax.errors.JaxRuntimeError("out of memory")

    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        compilation.compiled(Lowered(), "cpu")
    assert tries == [compilation.OPTIONS["cpu"], None]
