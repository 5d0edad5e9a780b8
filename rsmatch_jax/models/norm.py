"""Batch normalisation and the activation after it, one function with its derivative.

Ioffe and Szegedy 2015 (arXiv 1502.03167). Of one channel with n values x:

    mean = sum(x) / n,  var = sum(x^2) / n - mean^2,  r = 1 / sqrt(var + epsilon)
    xhat = r (x - mean),  z = scale xhat + bias,  y = z if z > 0 else slope z

mean and var depend on x, too. With h = dL/dz = dL/dy (1 if z > 0 else slope):

    dL/dbias = sum(h),  dL/dscale = sum(h xhat)
    dL/dx = scale r (h - sum(h) / n - xhat sum(h xhat) / n)

A pass over x makes the sums of each direction and a second one its result. Autodiff,
which stores what it can compute again, makes two passes more.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rsmatch_jax.models import split_norm
from rsmatch_jax.models.activation import activate, passes
from rsmatch_jax.runtime import parallel


class BatchNorm(nn.Module):
    """BatchNorm over all axes but the last, then a (leaky) ReLU.

    With use_running_average it normalises by the running statistics; otherwise by the
    batch's, over all devices of `axis_name`, and moves the running ones.

    momentum: share of the old running statistics in the new ones.
    unbiased: the running variance averages n/(n-1) times the variance of n values, as
      in torch; normalisation divides by the variance itself.
    slope: factor of negative values: 0 is a ReLU, 1 no activation.
    split: the rows that a call names synthetic have separate statistics, scale and
      bias, as in AdvProp's auxiliary BatchNorm (Xie et al. 2020, arXiv 1911.09665); the
      running statistics are those of the others, as evaluation has no such rows.
    """

    use_running_average: bool
    momentum: float
    epsilon: float = 1e-5
    slope: float = 1.0
    dtype: Any = jnp.float32  # of the result
    axis_name: str | None = None
    unbiased: bool = True
    split: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "n *pixels c"], synthetic: Bool[Array, " n"] | None = None
    ) -> Float[Array, "n *pixels c"]:
        shape = (x.shape[-1],)
        means = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        variances = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        others = None
        if self.split:
            others = (
                self.param("synthetic_scale", nn.initializers.ones, shape, jnp.float32),
                self.param("synthetic_bias", nn.initializers.zeros, shape, jnp.float32),
            )
        if self.use_running_average:
            r = jax.lax.rsqrt(variances.value + self.epsilon)
            z = _affine(x - _wide(means.value, x), r * scale, bias)
            return activate(z, self.slope).astype(self.dtype)

        settings = (self.epsilon, self.slope, self.dtype, self.axis_name)
        if synthetic is not None:
            assert others is not None
            both = jnp.stack([scale, others[0]]), jnp.stack([bias, others[1]])
            y, mean, var, count = split_norm.batch_norm(x, synthetic, *both, *settings)
            if self.unbiased:
                var *= count / jnp.maximum(1, count - 1)
            # Where no row is real, the running statistics stay.
            mean = jnp.where(count > 0, mean, means.value)
            var = jnp.where(count > 0, var, variances.value)
        else:
            y, mean, var = _batch_norm(x, scale, bias, *settings)
            if self.unbiased:
                count = _count(x) * parallel.num_devices(self.axis_name)
                var *= count / max(1, count - 1)  # torch refuses n = 1
        if not self.is_initializing():
            for running, new in ((means, mean), (variances, var)):
                old = self.momentum * running.value
                running.value = old + (1 - self.momentum) * new
        return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _batch_norm(x, scale, bias, epsilon, slope, dtype, axis):
    """Returns y of `dtype`, and mean and var, which have no gradient."""
    return _forward(x, scale, bias, epsilon, slope, dtype, axis)[0]


def _forward(x, scale, bias, epsilon, slope, dtype, axis):
    wide = x.astype(scale.dtype)
    mean, square = _means(_sums(wide, wide * wide), x, axis)
    var = jnp.maximum(0, square - mean * mean)  # rounding may make it negative
    r = jax.lax.rsqrt(var + epsilon)
    z = _affine(wide - _wide(mean, x), r * scale, bias)
    y = activate(z, slope).astype(dtype)
    return (y, mean, var), (x, mean, r, scale, bias)


def _backward(epsilon, slope, dtype, axis, saved, cotangents):
    x, mean, r, scale, bias = saved
    centred = x.astype(scale.dtype) - _wide(mean, x)
    xhat = centred * _wide(r, x)
    h = cotangents[0].astype(scale.dtype)
    z = _affine(centred, r * scale, bias)
    h = jnp.where(passes(z, slope), h, slope * h)
    sums = _sums(h, h * xhat)
    # Every device differentiates the sum of the losses of all, as autodiff does, so the
    # parameters' gradients are local, and their mean over devices is the global one.
    by_bias, by_scale = (_wide(m, x) for m in _means(sums, x, axis))
    dx = _wide(r * scale, x) * (h - by_bias - xhat * by_scale)
    return dx.astype(x.dtype), sums[1], sums[0]


_batch_norm.defvjp(_forward, _backward)


def _wide(vector, x):
    """Returns a vector [C] with the rank of x."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def _affine(x, scale, bias):
    return x * _wide(scale, x) + _wide(bias, x)


def _count(x):
    return x.size // x.shape[-1]


def _means(sums, x, axis):
    """Divides two sums by the number of values of x on all devices; the devices
    exchange one array."""
    if parallel.num_devices(axis) > 1:
        sums = parallel.mean(jnp.stack(sums), axis)
    return sums[0] / _count(x), sums[1] / _count(x)


def _sums(a, b):
    """Returns the sums of two arrays [N, ..., C] over all axes but the last, in one
    pass: of each image, and then of all. XLA's own split needs a third array on GPUs,
    the signs of z."""

    def add(x, y):
        return x[0] + y[0], x[1] + y[1]

    zeros = (jnp.zeros((), a.dtype), jnp.zeros((), b.dtype))
    pixels = tuple(range(1, a.ndim - 1))
    return jax.lax.reduce(jax.lax.reduce((a, b), zeros, add, pixels), zeros, add, (0,))
