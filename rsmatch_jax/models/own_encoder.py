"""A user's encoder, named as package.module:factory; docs/own-encoder.md shows one.

The only file that imports a module whose name stands in a config. A command that opens
a run therefore needs --trust_code first (engine/saved_config.py).
"""

import importlib
import os
import re
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rsmatch_jax.errors import RequestError, one_line
from rsmatch_jax.models.layers import Layers
from rsmatch_jax.runtime import parallel

_WORD = r"[A-Za-z_]\w*"
_FORM = re.compile(rf"({_WORD}(?:\.{_WORD})*):({_WORD})")
# Of Linen's collections: what the state holds, and what `layers.stage` adds.
_SAVED = {"params", "batch_stats"}
_PASSING = {"intermediates", "perturbations"}


def is_code(name: str) -> bool:
    """Whether a network's name stands for code outside this package."""
    return ":" in name


def make(name: str, layers: Layers) -> nn.Module:
    """Returns what factory(layers=layers) makes; RequestError if it is no encoder."""
    try:
        encoder = _factory(name)(layers=layers)
    except RequestError:
        raise
    except Exception as e:  # the code is the user's and may raise anything
        raise RequestError(
            f"{name}(layers=...) fails: {type(e).__name__}: {one_line(e)}"
        ) from e
    if not isinstance(encoder, nn.Module):
        raise RequestError(
            f"{name}(layers=...) must return a flax.linen Module; it returned a "
            f"{type(encoder).__name__}"
        )
    return encoder


def guarded(name: str, net: Any, encoder: nn.Module, layers: Layers) -> Any:
    """Returns a `networks.Network` whose init raises RequestError for a wrong output.

    The running statistics of training are averaged over the devices, because the
    encoder's norms may ignore `layers.sync_axis`, and replicas would drift apart.
    """

    def init(key, images):
        _check(name, encoder, images.shape[1:], layers.sync_axis)
        return net.init(key, images)

    def apply(params, stats, images, train):
        outputs, new = net.apply(params, stats, images, train)
        return outputs, parallel.mean(new, layers.sync_axis) if train else new

    return net._replace(init=init, apply=apply)


def _factory(name: str) -> Any:
    match = _FORM.fullmatch(name)
    if not match:
        raise RequestError(
            f"{name!r} is no package.module:factory, such as mynets:small"
        )
    module, factory = match.groups()
    if os.getcwd() not in sys.path:  # a console script does not look there
        sys.path.append(os.getcwd())
    try:
        code = importlib.import_module(module)
    except (Exception, SystemExit) as e:  # as above
        if isinstance(e, ModuleNotFoundError) and f"{module}.".startswith(f"{e.name}."):
            raise RequestError(
                f"{name!r}: there is no module {e.name}; it must be installed, on "
                "PYTHONPATH or in the current folder"
            ) from None
        raise RequestError(
            f"{name!r}: importing {module} fails: {type(e).__name__}: {one_line(e)}"
        ) from e
    if not callable(getattr(code, factory, None)):
        public = [n for n in vars(code) if callable(getattr(code, n)) and n[0] != "_"]
        raise RequestError(
            f"{name!r}: {module} has no function or class {factory}"
            + (f"; it has {', '.join(public)}" if public else "")
        )
    return getattr(code, factory)


def _check(name: str, encoder: nn.Module, shape: tuple[int, ...], axis: str | None):
    """Raises RequestError unless the encoder works on images of a shape (S, S, 3)."""

    def forward(images, train):
        variables = encoder.init(jax.random.key(0), images, False)
        features, _ = encoder.apply(
            variables, images, train, mutable=["batch_stats", *_PASSING]
        )
        return variables, features

    rows = 2
    images = jax.ShapeDtypeStruct((1, rows, *shape), jnp.float32)
    for train in (False, True):
        try:
            # The mapped axis over which synchronised norms average.
            mapped = jax.vmap(lambda x, t=train: forward(x, t), axis_name=axis)
            variables, features = jax.eval_shape(mapped, images)
        except Exception as e:  # as above
            raise RequestError(
                f"the encoder {name} fails on images {('N', *shape)} with "
                f"train={train}: {type(e).__name__}: {one_line(e)}"
            ) from e
        problem = _problem(variables, features, rows, getattr(encoder, "stages", ()))
        if problem:
            raise RequestError(f"the encoder {name} {problem}")


def _problem(variables: Any, features: Any, rows: int, stages: Any) -> str | None:
    """What is wrong with the shapes of an encoder's variables and features."""
    shape = getattr(features, "shape", (1,))[1:]
    dtype = getattr(features, "dtype", type(features).__name__)
    if len(shape) != 2 or shape[0] != rows or dtype != jnp.float32:
        got = f"{dtype} {('N', *shape[1:]) if shape[:1] == (rows,) else shape}"
        return f"must return features, float32 (N, D); it returned {got}"
    others = sorted({*variables} - _SAVED - _PASSING)
    if others:
        return (
            f"keeps variables in {', '.join(others)}, which no checkpoint would hold; "
            "it may have params and batch_stats"
        )
    if not variables.get("params"):
        return "has no parameters"
    for group in sorted(_SAVED & {*variables}):
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables[group]):
            if leaf.dtype != jnp.float32:
                place = jax.tree_util.keystr(path, simple=True, separator="/")
                return f"has {group} {place} of {leaf.dtype}; all must be float32"
    missing = [s for s in stages if s not in variables.get("perturbations", {})]
    if missing:
        return (
            f"names the stage {missing[0]}, but no layers.stage(self, "
            f"{missing[0]!r}, x) marks it"
        )
    return None
