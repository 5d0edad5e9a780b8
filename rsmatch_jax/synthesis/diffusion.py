"""The diffusion model behind the synthetic pool: schedule, training, drawing.

Noise prediction and training loss are those of DDPM (Ho et al. 2020, arXiv 2006.11239),
the cosine schedule that of Nichol and Dhariwal 2021 (2102.09672), the drawing that of
DDIM (Song et al. 2021, 2010.02502) with classifier-free guidance (Ho and Salimans 2022,
2207.12598).
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rsmatch_jax.data import arrays
from rsmatch_jax.models import unet

NOISE_LEVELS = 1000
INIT, TRAIN, DRAW = range(3)  # purposes of random numbers
REPORT_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the model is trained and drawn from; every field is a flag."""

    per_class: int = 190
    steps: int = 600
    batch_size: int = 128
    learning_rate: float = 2e-3
    width: int = 32
    ema_decay: float = 0.99
    label_dropout: float = 0.1
    guidance: float = 6.0
    sampling_steps: int = 50
    sampling_batch: int = 500
    seed: int = 0


@flax.struct.dataclass
class State:
    """step: int32 scalar; params, ema: weights; opt_state: optax."""

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any


def alpha_bars(levels: int = NOISE_LEVELS) -> np.ndarray:
    """Share of signal variance left at noise level 0..levels, float32 [levels + 1].

    Cosine schedule, 2102.09672 eq. 17 (s = 0.008, betas at most 0.999).
    """
    f = np.cos((np.arange(levels + 1) / levels + 0.008) / 1.008 * np.pi / 2) ** 2
    kept = np.maximum(f[1:] / f[:-1], 0.001)
    return np.concatenate([[1.0], np.cumprod(kept)]).astype(np.float32)


def add_noise(images: jax.Array, noise: jax.Array, signal: jax.Array) -> jax.Array:
    """x_t of 2006.11239 eq. 4. images, noise: [B, ...]; signal: alpha bar, [B]."""
    signal = signal.reshape((-1,) + (1,) * (images.ndim - 1))
    return jnp.sqrt(signal) * images + jnp.sqrt(1 - signal) * noise


def drop_labels(
    key: jax.Array, labels: jax.Array, rate: float, num_classes: int
) -> jax.Array:
    """Replaces a share `rate` of the labels, int32 [B], by num_classes: no label."""
    dropped = jax.random.bernoulli(key, rate, labels.shape)
    return jnp.where(dropped, num_classes, labels)


def guide(labelled: jax.Array, unlabelled: jax.Array, guidance: float) -> jax.Array:
    """Guided noise, 2207.12598 eq. 6: away from the prediction without a class."""
    return (1 + guidance) * labelled - guidance * unlabelled


def ddim_step(
    noisy: jax.Array, noise: jax.Array, signal: jax.Array, next_signal: jax.Array
) -> jax.Array:
    """One deterministic step of 2010.02502 eq. 12 (sigma = 0).

    noisy, noise: [B, ...]; signal, next_signal: alpha bar now and after, scalars.
    The estimate of the image is kept in [-1, 1] and the noise follows from it, or
    guidance would drive both out of the range the net was trained on.
    """
    clean = (noisy - jnp.sqrt(1 - signal) * noise) / jnp.sqrt(signal)
    clean = jnp.clip(clean, -1, 1)
    noise = (noisy - jnp.sqrt(signal) * clean) / jnp.sqrt(1 - signal)
    return jnp.sqrt(next_signal) * clean + jnp.sqrt(1 - next_signal) * noise


def make_train_step(
    settings: Settings, num_classes: int, tx: optax.GradientTransformation
) -> Callable[..., tuple[State, jax.Array]]:
    """Returns step(state, key, images, labels) -> (state, loss), pure, to be jitted.

    images: float32 [N, S, S, C] in [-1, 1], the whole set; labels: int32 [N]. The step
    draws its own batch from the key and the step number.
    """
    net = unet.UNet(num_classes, settings.width)
    signals = jnp.asarray(alpha_bars())

    def step(state: State, key: jax.Array, images: jax.Array, labels: jax.Array):
        keys = jax.random.split(jax.random.fold_in(key, state.step), 4)
        chosen = jax.random.randint(keys[0], (settings.batch_size,), 0, len(labels))
        clean = images[chosen]
        times = jax.random.randint(keys[1], chosen.shape, 1, NOISE_LEVELS + 1)
        noise = jax.random.normal(keys[2], clean.shape, jnp.float32)
        noisy = add_noise(clean, noise, signals[times])
        given = drop_labels(
            keys[3], labels[chosen], settings.label_dropout, num_classes
        )

        def loss_fn(params):
            return jnp.mean((net.apply(params, noisy, times, given) - noise) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # A short run must forget its first weights: decay grows to its value.
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
    """First weights for images of `shape`, (S, S, C), by the seed."""
    net = unet.UNet(num_classes, settings.width)
    # XLA's own generator: on CPU the default one takes 7 s more to compile here.
    key = jax.random.fold_in(jax.random.key(settings.seed, impl="rbg"), INIT)
    none = jnp.zeros((1,), jnp.int32)
    params = jax.jit(net.init)(key, jnp.zeros((1, *shape)), none, none)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt_state=tx.init(params),
    )


def train(
    settings: Settings,
    data: arrays.ImageArrays,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Any, np.ndarray]:
    """Trains the noise predictor on all of `data`.

    Returns: the averaged (EMA) weights and the losses, float32 [steps].
    Raises: FloatingPointError where the loss is not finite.
    """
    images = jnp.asarray(data.images, jnp.float32) / 127.5 - 1
    labels = jnp.asarray(data.labels, jnp.int32)
    tx = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.steps))
    step = jax.jit(make_train_step(settings, data.num_classes, tx), donate_argnums=0)
    state = init_state(settings, data.num_classes, images.shape[1:], tx)
    key = jax.random.fold_in(jax.random.key(settings.seed), TRAIN)
    progress = Progress("training", "steps", settings.steps, say)
    losses = []
    # Steps are dispatched one by one: XLA:CPU runs convolutions inside a loop of its
    # own (scan, while) many times slower.
    for _ in range(settings.steps):
        state, loss = step(state, key, images, labels)
        losses.append(loss)
        progress.advance(1, lambda: f"loss {recent(losses):.4f}")
    history = np.asarray(jax.device_get(losses), np.float32)
    if not np.isfinite(history).all():
        first = int(np.argmin(np.isfinite(history)))
        raise FloatingPointError(
            f"the loss is not finite from training step {first} on; lower "
            f"--learning_rate (it was {settings.learning_rate})"
        )
    return state.ema, history


def make_sampler(
    settings: Settings, shape: tuple[int, ...], num_classes: int
) -> Callable[..., np.ndarray]:
    """Returns draw(params, key, labels, tick) -> float32 [B, *shape] in [-1, 1].

    labels: int32 [B]; every new B compiles once. tick is called after every step.
    """
    net = unet.UNet(num_classes, settings.width)
    signals = alpha_bars()
    times = np.linspace(NOISE_LEVELS, 0, settings.sampling_steps + 1)
    times = np.rint(times).astype(np.int32)

    @jax.jit
    def step(params, noisy, labels, level, signal, next_signal):
        none = jnp.full_like(labels, num_classes)
        noise = net.apply(
            params,
            jnp.concatenate([noisy, noisy]),
            jnp.full((2 * len(labels),), level),
            jnp.concatenate([labels, none]),
        )
        noise = guide(*jnp.split(noise, 2), settings.guidance)
        return ddim_step(noisy, noise, signal, next_signal)

    def draw(params, key, labels, tick=lambda: None) -> np.ndarray:
        x = jax.random.normal(key, (len(labels), *shape))
        for now, after in zip(times[:-1], times[1:], strict=True):
            x = step(params, x, labels, now, signals[now], signals[after])
            x.block_until_ready()  # or the progress would run ahead of the device
            tick()
        return np.asarray(x)

    return draw


class Progress:
    """Says every few seconds how far a loop is, how fast, and when it ends."""

    def __init__(self, name: str, unit: str, total: int, say: Callable[[str], None]):
        self._name, self._unit, self._total, self._say = name, unit, total, say
        self._done = 0
        self._start = self._said = time.monotonic()

    def advance(self, n: int, detail: Callable[[], str] = lambda: ""):
        """Counts n; `detail` is asked only when a line is due."""
        self._done += n
        now = time.monotonic()
        if self._done < self._total and now - self._said < REPORT_SECONDS:
            return
        self._said = now
        text = detail()  # may wait for the device, so it comes before the clock
        rate = self._done / max(time.monotonic() - self._start, 1e-9)
        self._say(
            f"{self._name} {self._done}/{self._total} {self._unit}, {rate:.1f}/s, "
            f"{(self._total - self._done) / rate:.0f} s left"
            + (f", {text}" if text else "")
        )


def recent(losses: Sequence[jax.Array | np.ndarray]) -> float:
    """Mean of the last 50 losses; waits for them."""
    return float(np.mean(jax.device_get(losses[-50:])))
