"""Every method by name. A new one is a file beside these and a line here."""

from rsmatch_jax.methods import fixmatch, rsmatch, simmatch, supervised
from rsmatch_jax.methods.base import Dims, Method

__all__ = ["METHODS", "Dims", "Method"]

METHODS = {
    "rsmatch": rsmatch.make,
    "fixmatch": fixmatch.make,
    "simmatch": simmatch.make,
    "supervised": supervised.make,
}
