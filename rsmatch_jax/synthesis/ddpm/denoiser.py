"""Trains the diffusion model to predict noise, with DDPM's loss."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rsmatch_jax.data.stores import arrays
from rsmatch_jax.errors import RunFailed
from rsmatch_jax.progress import Progress, busy
from rsmatch_jax.runs.checkpoint import Checkpoints
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.synthesis.ddpm import diffusion
from rsmatch_jax.synthesis.ddpm.settings import NOISE_LEVELS, Settings
from rsmatch_jax.terminal import say

RECENT = 50  # losses whose mean is shown
# Steps under way beside the one that is dispatched. With many, devices that share a few
# cores of a CPU may wait for each other's collectives until XLA ends the process.
AHEAD = 4


@flax.struct.dataclass
class State:
    """The weights, float32, their running average (ema), and optax's state."""

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any


def optimizer(settings: Settings) -> optax.GradientTransformation:
    """Returns Adam whose rate rises linearly, then falls along a half cosine to 0."""
    rise = settings.warmup_steps
    steps = max(settings.steps, rise + 1)  # the cosine needs a step
    adam = optax.adam(
        optax.warmup_cosine_decay_schedule(0, settings.learning_rate, rise, steps)
    )
    if not settings.gradient_clip:
        return adam
    return optax.chain(optax.clip_by_global_norm(settings.gradient_clip), adam)


def noised(
    settings: Settings,
    keys: jax.Array,
    clean: jax.Array,
    labels: jax.Array,
    num_classes: int,
) -> tuple[jax.Array, ...]:
    """Adds noise to a batch and hides some of its labels, by five keys.

    clean: uint8 [B, S, S, C], labels: int32 [B], the complete batch.

    Returns:
        This device's rows of the noise and of the network's inputs: noisy images,
        times, labels, keys for dropout.
    """
    size, signals = len(clean), jnp.asarray(diffusion.alpha_bars())
    times = jax.random.randint(keys[0], (size,), 1, NOISE_LEVELS + 1)
    noise = jax.random.normal(keys[1], clean.shape, jnp.float32)
    shown = diffusion.drop_labels(keys[2], labels, settings.label_dropout, num_classes)
    if settings.flip:
        clean = diffusion.flip_some(keys[3], clean)
    rows = (clean, times, noise, shown, jax.random.split(keys[4], size))
    clean, times, noise, shown, drop_keys = map(parallel.local_rows, rows)
    clean = clean.astype(jnp.float32) / 127.5 - 1
    noisy = diffusion.add_noise(clean, noise, signals[times])
    return noise, noisy, times, shown, drop_keys


def update(
    settings: Settings,
    tx: optax.GradientTransformation,
    state: State,
    loss_fn: Callable[[Any], jax.Array],
) -> tuple[State, jax.Array]:
    """Returns the state after one step of the optimizer, and the loss."""
    loss, grads = parallel.mean(jax.value_and_grad(loss_fn)(state.params))
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # The decay grows to its value, so that a short run forgets its first weights.
    decay = jnp.minimum(settings.ema_decay, (1 + state.step) / (10 + state.step))
    ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, params)
    return State(state.step + 1, params, ema, opt_state), loss


def make_train_step(
    settings: Settings, num_classes: int, tx: optax.GradientTransformation
) -> Callable[..., tuple[State, jax.Array]]:
    """Returns step(state, key, images, labels) -> (state, loss) for one device.

    images: uint8 [N, S, S, C], labels: int32 [N], the complete set, from which the step
    draws its batch by the key and its number.
    """

    def step(state: State, key: jax.Array, images: jax.Array, labels: jax.Array):
        keys = jax.random.split(jax.random.fold_in(key, state.step), 6)
        chosen = jax.random.randint(keys[0], (settings.batch_size,), 0, len(labels))
        noise, *inputs = noised(
            settings, keys[1:], images[chosen], labels[chosen], num_classes
        )
        net = diffusion.network(settings, images.shape[1], num_classes)

        def loss_fn(params):
            predicted: Any = net.apply(params, *inputs)
            return jnp.mean((predicted - noise) ** 2)

        return update(settings, tx, state, loss_fn)

    return step


def init_state(
    settings: Settings,
    num_classes: int,
    shape: tuple[int, ...],
    tx: optax.GradientTransformation,
) -> State:
    """Returns the first state for images of `shape`, (S, S, C), by the seed."""
    net = diffusion.network(settings, shape[0], num_classes)

    def init(key):
        none = jax.ShapeDtypeStruct((1,), jnp.int32)
        image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        params = net.lazy_init(key, image, none, none)
        ema = jax.tree.map(jnp.copy, params)
        return State(jnp.zeros((), jnp.int32), params, ema, tx.init(params))

    # XLA's generator (rbg): on CPU the default one takes 7 s more to compile here.
    key = jax.random.fold_in(jax.random.key(settings.seed, impl="rbg"), diffusion.INIT)
    return jax.jit(init)(key)


def train(
    settings: Settings,
    data: arrays.ImageArrays,
    devices: Sequence[jax.Device],
    folder: str,
    save_every: int,
) -> tuple[State, list[float]]:
    """Trains the noise predictor on all of `data`, or raises RunFailed if it diverges.

    The state is saved in `folder` every `save_every` steps and after the last; training
    continues from a state that is there.

    Returns:
        The last state and the losses; of steps before a restart only the last RECENT.
    """
    tx = optimizer(settings)
    state = init_state(settings, data.num_classes, data.images.shape[1:], tx)
    key = jax.random.fold_in(jax.random.key(settings.seed), diffusion.TRAIN)
    images, labels = np.ascontiguousarray(data.images), data.labels.astype(np.int32)
    step = make_train_step(settings, data.num_classes, tx)
    inputs = key, images, labels
    return fit(settings, step, state, inputs, devices, folder, save_every)


def fit(
    settings: Settings,
    step: Callable[..., tuple[State, jax.Array]],
    state: State,
    inputs: tuple[Any, ...],
    devices: Sequence[jax.Device],
    folder: str,
    save_every: int,
    name: str = "training",
) -> tuple[State, list[float]]:
    """Does settings.steps steps `step(state, *inputs)` for one device, as `train`.
    name: training or tuning."""
    flag = {"training": "learning_rate", "tuning": "tuning_rate"}[name]
    lower = f"lower --{flag} ({settings.learning_rate})"
    anew = f"delete {folder} and start again"
    state = parallel.replicate(state, devices)
    done, losses = 0, []
    pending: list[jax.Array] = []  # losses that are still on the device

    def recent_loss() -> str:
        losses.extend(_finite(pending, done, f"{lower}, {anew}"))
        pending.clear()
        return f"loss {np.mean(losses[-RECENT:]):.4f}"

    with contextlib.closing(Checkpoints(folder, keep=1)) as checkpoints:
        if saved := checkpoints.restore_newest(state, say, anew):
            done, state, losses = saved.step, saved.state, saved.meta["losses"]
            say(f"{name}: {done} of {settings.steps} steps are done already")
        if done == settings.steps:  # no need to compile the step
            return state, losses
        constants = parallel.replicate(inputs, devices)
        inputs = (*constants, parallel.ranks(devices))
        step = parallel.map_resident_step(step, len(constants), devices)
        with busy(f"{name}: compiling the step"):
            lowered = step.lower(state, *inputs)
            step = compilation.compiled(lowered, devices[0].platform)
        # Steps are dispatched one by one: XLA:CPU runs convolutions inside its loops
        # (scan, while) many times slower.
        with Progress(name, "steps", settings.steps, say, done) as progress:
            while done < settings.steps:
                done += 1
                state, loss = step(state, *inputs)
                pending.append(loss)
                jax.block_until_ready(pending[-1 - AHEAD : -AHEAD])
                progress.advance(1, recent_loss)
                if done % save_every == 0 or done == settings.steps:
                    recent_loss()  # a diverged run must not be saved
                    checkpoints.save(done, state, {"losses": losses[-RECENT:]})
    return state, losses


def _finite(losses: list[jax.Array], done: int, way_out: str) -> list[float]:
    """Returns the losses of the steps up to `done`; fails if one is not finite."""
    values = [float(value) for value in jax.device_get(losses)]
    finite = np.isfinite(values)
    if not finite.all():
        first = done - len(values) + 1 + int(np.argmin(finite))
        raise RunFailed(
            f"the loss is not finite from training step {first} on; {way_out}"
        )
    return values
