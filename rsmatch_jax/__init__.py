"""RSMatch: semi-supervised learning with synthetic images in the unlabelled set.

A trained run, from Python:

    import rsmatch_jax
    model = rsmatch_jax.load("runs/demo")
    images = model.read(["scan.png"])           # files -> uint8 [N, S, S, 3]
    predictions = model.predict(images)         # .probabilities float32 [N, K], .labels
    model.features(images)                      # float32 [N, D]

The parts, for other training code. `axis` names the axis that pmap or shard_map maps,
None means one device; a name that is not bound is an error:

    from rsmatch_jax import csqueue
    queue = csqueue.create(10, 16, (32, 32, 3))
    queue = csqueue.push(queue, key, images, indices, classes, scores,
                         select=10, top=1, axis=None)
    rule = rsmatch_jax.RULES["freematch"](0.999, 0.001, False, False)
    step = rsmatch_jax.make_train_step(method, nets, tx, ..., axis=None)

`_PUBLIC` lists every public name. Everything else is a command, or internal and may
change.
"""

import sys as _sys

# `python -m rsmatch_jax.X` comes here before the imports of X, which take seconds.
if _sys.argv[:1] == ["-m"] and "rsmatch_jax" in " ".join(_sys.orig_argv[1:4]):
    from rsmatch_jax import progress as _progress

    _progress.begin("loading the libraries")

# Name: where it is. Loaded at its first use, so that importing the package stays light.
_PUBLIC = {
    "load": "deploy.frozen:load",
    "csqueue": "methods.csqueue",
    "CSQueue": "state:CSQueue",
    "RULES": "methods.rules:RULES",
    "Rule": "methods.base:Rule",
    "RuleInputs": "methods.base:RuleInputs",
    "METHODS": "methods.catalogue:METHODS",
    "Method": "methods.base:Method",
    "StepInputs": "methods.base:StepInputs",
    "Dims": "methods.base:Dims",
    "Batch": "state:Batch",
    "TrainState": "state:TrainState",
    "init_state": "step:init_state",
    "make_train_step": "step:make_train_step",
    "networks": "models.networks",
    "take_uint8": "models.networks:take_uint8",
    "optim": "optim",
    "on_device": "augment.on_device",
    "ViewSpec": "augment.views:ViewSpec",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pkgutil

    return pkgutil.resolve_name(f"{__name__}.{_PUBLIC[name]}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
