"""Every method by name. A new one is a file beside these and a line here."""

from rsmatch_jax.methods import rsmatch, self_training, simmatch, supervised
from rsmatch_jax.methods.base import Dims, Method
from rsmatch_jax.methods.rules import RULES

__all__ = ["METHODS", "RULES", "Dims", "Method"]

METHODS = {
    "rsmatch": rsmatch.make,
    "fixmatch": self_training.make,
    "flexmatch": self_training.make,
    "freematch": self_training.make,
    "simmatch": simmatch.make,
    "supervised": supervised.make,
}
