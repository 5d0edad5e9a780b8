"""Trains the diffusion model and draws pictures with it.

Noise prediction and loss are DDPM's (Ho et al. 2020, arXiv 2006.11239). Drawing is
DDIM's (Song et al. 2021, 2010.02502) with classifier-free guidance (Ho and Salimans
2022, 2207.12598). Random numbers are drawn for the complete batch and each device takes
its rows, so the number of devices changes results by rounding alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rsmatch_jax.data.stores import arrays
from rsmatch_jax.models import unet
from rsmatch_jax.runs.checkpoint import Checkpoints
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.synthesis.ddpm import process
from rsmatch_jax.synthesis.ddpm.losses import RECENT, Losses
from rsmatch_jax.synthesis.ddpm.settings import NOISE_LEVELS, Settings
from rsmatch_jax.terminal import Progress

INIT, TRAIN, DRAW = range(3)  # purposes of random numbers


@flax.struct.dataclass
class State:
    """step: int32 scalar. params, ema: weights, float32. opt_state: optax's."""

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any


def network(settings: Settings, size: int, num_classes: int) -> unet.UNet:
    """Returns the U-Net for images of `size` px."""
    return unet.UNet(
        num_classes,
        settings.width,
        multipliers=unet.multipliers(size),
        blocks=settings.blocks,
        attention=unet.attention_sizes(size),
        dropout=settings.dropout,
        dtype=jnp.dtype(settings.dtype),
    )


def optimizer(settings: Settings) -> optax.GradientTransformation:
    """Returns Adam whose rate rises linearly, then falls along a half cosine to 0."""
    rate = optax.cosine_decay_schedule(
        settings.learning_rate, max(1, settings.steps - settings.warmup_steps)
    )
    if settings.warmup_steps:
        rise = optax.linear_schedule(0, settings.learning_rate, settings.warmup_steps)
        rate = optax.join_schedules([rise, rate], [settings.warmup_steps])
    adam = optax.adam(rate)
    if not settings.gradient_clip:
        return adam
    return optax.chain(optax.clip_by_global_norm(settings.gradient_clip), adam)


def make_train_step(
    settings: Settings, num_classes: int, tx: optax.GradientTransformation
) -> Callable[..., tuple[State, jax.Array]]:
    """Returns step(state, key, images, labels) -> (state, loss) for one device.

    `parallel.map_resident_step` maps it over the devices. images: uint8 [N, S, S, C],
    labels: int32 [N], the complete set. The step draws its batch from the key and the
    step number.
    """
    signals = jnp.asarray(process.alpha_bars())

    def step(state: State, key: jax.Array, images: jax.Array, labels: jax.Array):
        size = settings.batch_size
        net = network(settings, images.shape[1], num_classes)
        keys = jax.random.split(jax.random.fold_in(key, state.step), 6)
        chosen = jax.random.randint(keys[0], (size,), 0, len(labels))
        times = jax.random.randint(keys[1], (size,), 1, NOISE_LEVELS + 1)
        noise = jax.random.normal(keys[2], (size, *images.shape[1:]), jnp.float32)
        shown = process.drop_labels(
            keys[3], labels[chosen], settings.label_dropout, num_classes
        )
        clean = images[chosen]
        if settings.flip:
            clean = process.flip_some(keys[4], clean)
        rows = (clean, times, noise, shown, jax.random.split(keys[5], size))
        clean, times, noise, shown, drop_keys = map(parallel.local_rows, rows)
        clean = clean.astype(jnp.float32) / 127.5 - 1
        noisy = process.add_noise(clean, noise, signals[times])

        def loss_fn(params):
            predicted: Any = net.apply(params, noisy, times, shown, drop_keys)
            return jnp.mean((predicted - noise) ** 2)

        loss, grads = parallel.mean(jax.value_and_grad(loss_fn)(state.params))
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # The decay grows to its value, so that a short run forgets its first weights.
        decay = jnp.minimum(settings.ema_decay, (1 + state.step) / (10 + state.step))
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, params)
        return State(state.step + 1, params, ema, opt_state), loss

    return step


def init_state(
    settings: Settings,
    num_classes: int,
    shape: tuple[int, ...],
    tx: optax.GradientTransformation,
) -> State:
    """Returns the first state for images of `shape`, (S, S, C), by the seed."""
    net = network(settings, shape[0], num_classes)

    def init(key):
        none = jax.ShapeDtypeStruct((1,), jnp.int32)
        image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        params = net.lazy_init(key, image, none, none)
        ema = jax.tree.map(jnp.copy, params)
        return State(jnp.zeros((), jnp.int32), params, ema, tx.init(params))

    # XLA's generator (rbg): on CPU the default one takes 7 s more to compile here.
    key = jax.random.fold_in(jax.random.key(settings.seed, impl="rbg"), INIT)
    return jax.jit(init)(key)


def train(
    settings: Settings,
    data: arrays.ImageArrays,
    say: Callable[[str], None] = lambda line: None,
    *,
    devices: Sequence[jax.Device] | None = None,
    folder: str | None = None,
    save_every: int | None = None,
) -> tuple[State, Losses]:
    """Trains the noise predictor on all of `data`.

    Args:
        devices: None is all local ones.
        folder: where the state is saved every `save_every` steps and after the last
            (None: nowhere); training continues from a state that is there.

    Returns:
        The last state and the losses.

    Raises:
        RunFailed: the loss is not finite.
    """
    devices = list(devices or jax.local_devices())
    tx = optimizer(settings)
    state = init_state(settings, data.num_classes, data.images.shape[1:], tx)
    state = parallel.replicate(state, devices)
    losses = Losses(settings.learning_rate)
    checkpoints = Checkpoints(folder, keep=1) if folder else None
    first, saved = 0, checkpoints and checkpoints.restore_newest(state, say)
    if saved:
        first, state = saved.step, saved.state
        losses = Losses(settings.learning_rate, first, saved.meta["losses"])
        say(f"training: {first} of {settings.steps} steps are done already")
    try:
        if first < settings.steps:
            step, inputs = _mapped_step(settings, data, tx, devices, state)
        progress = Progress("training", "steps", settings.steps, say, first)
        # Steps are dispatched one by one: XLA:CPU runs convolutions inside its loops
        # (scan, while) many times slower.
        for done in range(first + 1, settings.steps + 1):
            state, loss = step(state, *inputs)
            losses.pending.append(loss)
            progress.advance(1, losses.text)
            due = save_every and done % save_every == 0
            if checkpoints and (due or done == settings.steps):
                losses.fetch()  # a diverged run must not be saved
                checkpoints.save(done, state, {"losses": losses.values[-RECENT:]})
    finally:
        if checkpoints:
            checkpoints.close()
    losses.fetch()
    return state, losses


def _mapped_step(
    settings: Settings,
    data: arrays.ImageArrays,
    tx: optax.GradientTransformation,
    devices: Sequence[jax.Device],
    state: State,
) -> tuple[Callable, tuple]:
    """Returns the compiled step and its inputs after the state."""
    key = jax.random.fold_in(jax.random.key(settings.seed), TRAIN)
    images, labels = np.ascontiguousarray(data.images), data.labels.astype(np.int32)
    constants = parallel.replicate((key, images, labels), devices)
    inputs = (*constants, parallel.ranks(devices))
    step = make_train_step(settings, data.num_classes, tx)
    step = parallel.map_resident_step(step, len(constants), devices)
    lowered = step.lower(state, *inputs)
    return compilation.compiled(lowered, devices[0].platform), inputs


def make_sampler(
    settings: Settings,
    shape: tuple[int, ...],
    num_classes: int,
    devices: Sequence[jax.Device] | None = None,
) -> Callable[..., np.ndarray]:
    """Returns draw(params, key, labels, tick) -> float32 [B, *shape] in [-1, 1].

    labels: int32 [B]; every new B is compiled once. tick is called after every step.
    """
    devices = list(devices or jax.local_devices())
    net = network(settings, shape[0], num_classes)
    signals = process.alpha_bars()
    times = np.linspace(NOISE_LEVELS, 0, settings.sampling_steps + 1)
    times = np.rint(times).astype(np.int32)

    def forward(params_and_levels, batch):
        params, level, signal, next_signal = params_and_levels
        noisy, labels = batch
        levels = jnp.full((2 * len(labels),), level)
        shown = jnp.concatenate([labels, jnp.full_like(labels, num_classes)])
        noise: Any = net.apply(params, jnp.concatenate([noisy] * 2), levels, shown)
        labelled, unlabelled = jnp.split(noise, 2)
        noise = process.guide(labelled, unlabelled, settings.guidance)
        return process.ddim_step(noisy, noise, signal, next_signal)

    mapped = parallel.map_eval(forward, devices)
    programs: dict[int, Callable] = {}

    def draw(params, key, labels, tick=lambda: None) -> np.ndarray:
        noise = np.asarray(jax.random.normal(key, (len(labels), *shape)))
        # Every device needs equally many rows, so the first ones repeat at the end.
        rows = np.arange(-(-len(labels) // len(devices)) * len(devices)) % len(labels)
        x, classes = parallel.shard_rows((noise[rows], labels[rows]), devices)
        params = parallel.replicate(params, devices)
        for now, after in zip(times[:-1], times[1:], strict=True):
            variables = params, now, signals[now], signals[after]
            if len(labels) not in programs:
                lowered = mapped.lower(variables, (x, classes))
                platform = devices[0].platform
                programs[len(labels)] = compilation.compiled(lowered, platform)
            x = programs[len(labels)](variables, (x, classes))
            x.block_until_ready()  # else the progress line runs ahead of the device
            tick()
        return parallel.collect(x)[: len(labels)]

    return draw
