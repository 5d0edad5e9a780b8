"""Measurements of speed: python -m rsmatch_jax.bench NAME."""
