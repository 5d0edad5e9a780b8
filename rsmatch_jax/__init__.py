"""RSMatch: semi-supervised learning with synthetic images in the unlabelled set.

From Python, a trained run:

    import rsmatch_jax
    model = rsmatch_jax.load("runs/demo")
    images = model.read(["scan.png"])           # files -> uint8 [N, S, S, 3]
    found = model.predict(images)               # .probabilities float32 [N, K], .labels
    model.features(images)                      # float32 [N, D]

Everything else is a command, or internal and may change.
"""


def load(workdir: str, step: str = "last", *, batch_size: int = 256):
    """The trained model of a run of launch.py, an `rsmatch_jax.inference.Model`: EMA
    weights of encoder and real head, and of the detector where there is one, on the
    first local device. The run's data need not be there.

    step: last, best or a saved step's number. batch_size: most images at a time.
    Raises: errors.RequestError, a ValueError, where there is no such run or step, or
    where another method or version has made it; errors.RunFailed, a RuntimeError, where
    the checkpoint is damaged.
    """
    # Not at the top: importing the package stays light.
    from rsmatch_jax.deploy import frozen

    return frozen.load(workdir, step, batch_size=batch_size)
