"""RSMatch: semi-supervised learning with synthetic images in the unlabelled set.

import rsmatch_jax
model = rsmatch_jax.load("runs/demo")           # a workdir of launch.py
model.predict(images).probabilities             # uint8 [N, S, S, 3] -> [N, K]
model.features(images)                          # -> float32 [N, D]
"""

__version__ = "0.1.0"


def load(workdir: str, step: str = "last", *, batch_size: int = 256):
    """The trained model of a run, see `rsmatch_jax.inference.Model`.

    step: last, best or a saved step's number. Raises: errors.RequestError where there
    is no such run or step, or where another version has made it; errors.RunFailed where
    the checkpoint is damaged.
    """
    # Not at the top: importing the package stays light.
    from rsmatch_jax import inference

    return inference.load(workdir, step, batch_size=batch_size)
