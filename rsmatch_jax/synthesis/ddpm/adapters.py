"""Fine-tunes the diffusion model to take a difficulty, with low-rank adapters.

The trained network stays as it is. What learns is the embedding of class and difficulty
(unet.Difficulty; Wang et al., arXiv 2411.18109) and, for the kernel W [in, out] of each
dense layer, those of attention too, a change A B of low rank (LoRA, Hu et al. 2021,
2106.09685): W + A B, A [in, rank] normal with variance 1 / in, B [rank, out] zero. So
before fine-tuning the network predicts what it predicted without a difficulty.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from rsmatch_jax.data.stores.arrays import ImageArrays
from rsmatch_jax.models import unet
from rsmatch_jax.runtime import parallel
from rsmatch_jax.synthesis.ddpm import denoiser, difficulty, diffusion
from rsmatch_jax.synthesis.ddpm.denoiser import State
from rsmatch_jax.synthesis.ddpm.settings import Settings, Tuning


class Tuned(NamedTuple):
    """The parameters of the network that takes a difficulty; that of each training
    image, float32 [N]; what the pool's report says of them."""

    params: Any
    scores: np.ndarray
    about: dict[str, Any]


def init(settings: Settings, rank: int, base: Any, num_classes: int) -> dict[str, Any]:
    """Returns the first adapters of a network with the parameters `base`, by the seed.

    difficulty: parameters of unet.Difficulty. low_rank: {a kernel's path: A and B}.
    """
    embed = unet.Difficulty(num_classes, 4 * settings.width)
    key = jax.random.fold_in(jax.random.key(settings.seed), diffusion.ADAPT)
    params = embed.init(key, jnp.zeros(1, jnp.int32), jnp.zeros(1))["params"]
    pairs = {}
    for i, (path, kernel) in enumerate(sorted(_dense(base).items())):
        rows, columns = kernel.shape
        a = jax.random.normal(jax.random.fold_in(key, i), (rows, rank))
        pairs[path] = {"a": a / rows**0.5, "b": jnp.zeros((rank, columns))}
    return {"difficulty": params, "low_rank": pairs}


def _dense(base: Any) -> dict[str, Any]:
    """Returns the kernels of the dense layers by their path: those of two axes."""
    flat: dict[str, Any] = traverse_util.flatten_dict(base["params"], sep="/")
    return {k: v for k, v in flat.items() if k.endswith("/kernel") and v.ndim == 2}


def merge(base: Any, adapters: Any) -> dict[str, Any]:
    """Returns the parameters of the network that takes a difficulty: W + A B in place
    of each W."""
    flat = traverse_util.flatten_dict(base["params"], sep="/")
    for path, pair in adapters["low_rank"].items():
        flat[path] = flat[path] + pair["a"] @ pair["b"]
    params = traverse_util.unflatten_dict(flat, sep="/")
    return {"params": {**params, "difficulty": adapters["difficulty"]}}


def make_train_step(
    settings: Settings,
    tuning: Tuning,
    num_classes: int,
    tx: optax.GradientTransformation,
) -> Callable[..., tuple[State, jax.Array]]:
    """Returns step(state, key, images, labels, scores, totals, base) -> (state, loss)
    for one device. state.params: the adapters.

    As denoiser.make_train_step, but with scores: the difficulties, float32 [N], and
    totals: the running sum of the images' chances to be chosen, float32 [N], up to 1.
    """

    def step(state: State, key, images, labels, scores, totals, base):
        size = settings.batch_size
        keys = jax.random.split(jax.random.fold_in(key, state.step), 7)
        places = jax.random.uniform(keys[0], (size,)) * totals[-1]
        chosen = jnp.searchsorted(totals, places, side="right")
        noise, *inputs = denoiser.noised(
            settings, keys[2:], images[chosen], labels[chosen], num_classes
        )
        hidden = jax.random.bernoulli(keys[1], tuning.difficulty_dropout, (size,))
        levels = jnp.where(hidden, diffusion.HIDDEN, scores[chosen])
        levels = parallel.local_rows(levels)
        net = diffusion.network(settings, images.shape[1], num_classes)

        def loss_fn(adapters):
            predicted: Any = net.apply(merge(base, adapters), *inputs, levels)
            return jnp.mean((predicted - noise) ** 2)

        return denoiser.update(settings, tx, state, loss_fn)

    return step


def tune(
    settings: Settings,
    tuning: Tuning,
    base: Any,
    data: ImageArrays,
    devices: Sequence[jax.Device],
    folder: str,
    save_every: int,
) -> Tuned:
    """Scores the images of `data` and fine-tunes `base`, the network's parameters, on
    all of them. Saves in `folder` and continues from it as denoiser.train does."""
    scores, about = difficulty.of_training(folder, data, tuning, settings.seed)
    chances = difficulty.chances(scores, tuning.oversampling)
    settings = dataclasses.replace(
        settings,
        steps=tuning.tuning_steps,
        learning_rate=tuning.tuning_rate,
        warmup_steps=0,
    )
    base = jax.device_get(base)
    tx = denoiser.optimizer(settings)
    params = init(settings, tuning.rank, base, data.num_classes)
    ema = jax.tree.map(jnp.copy, params)
    state = State(jnp.zeros((), jnp.int32), params, ema, tx.init(params))
    inputs = (
        jax.random.fold_in(jax.random.key(settings.seed), diffusion.TUNE),
        np.ascontiguousarray(data.images),
        data.labels.astype(np.int32),
        scores,
        np.cumsum(chances).astype(np.float32),
        base,
    )
    step = make_train_step(settings, tuning, data.num_classes, tx)
    state, losses = denoiser.fit(
        settings, step, state, inputs, devices, folder, save_every, "tuning"
    )
    about["final_loss"] = round(float(np.mean(losses[-denoiser.RECENT :])), 4)
    params = jax.jit(merge)(base, jax.device_get(state.ema))
    return Tuned(params, scores, about)
