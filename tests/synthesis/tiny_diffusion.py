"""One set of shapes for all tests of diffusion, because compiling takes the time."""

from rsmatch_jax.synthesis.ddpm import settings

TINY = settings.Settings(
    per_class=2,
    steps=60,
    batch_size=32,
    learning_rate=1e-2,
    width=8,
    ema_decay=0.9,
    sampling_steps=3,
    sampling_batch=12,
)
