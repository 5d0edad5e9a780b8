"""Checks of a config before anything is loaded. Each method checks its own keys
(methods/keys.py); what depends on the data is checked where the data is."""

import math
from collections.abc import Iterable
from typing import Any

from rsmatch_jax.data import sources
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods import catalogue
from rsmatch_jax.methods.keys import Bounds, get, refuse
from rsmatch_jax.models import networks, own_encoder
from rsmatch_jax.runs import workdir

__all__ = ["check", "check_overrides", "get", "ignored_keys"]

SMALLEST = 8  # px; below, the four stages of a network reduce an image to nothing
_ONE_OR_MORE, _NOT_NEGATIVE = Bounds(least=1), Bounds(least=0)
_POSITIVE, _SHARE = Bounds(above=0), Bounds(least=0, most=1)
_SEED = Bounds(least=0, most=2**31 - 1)
# Of the keys that are not in a method's block.
BOUNDS = {
    "seed": _SEED,
    "data.labels_per_class": _ONE_OR_MORE,
    "data.validation_per_class": _NOT_NEGATIVE,
    "data.synthetic_ratio": _NOT_NEGATIVE,
    "data.synthetic_mode": Bounds(choices=("replace", "add")),
    "data.split_seed": _SEED,
    "data.image_size": Bounds(least=SMALLEST),
    "data.size": Bounds(least=SMALLEST),
    "data.test_share": Bounds(least=0, most=0.9),
    "input.mode": Bounds(choices=("auto", "resident", "tfdata")),
    "input.resident_budget_gb": _NOT_NEGATIVE,
    "input.crop_pad": _NOT_NEGATIVE,
    "input.crop_area": Bounds(least=0, most=1, above=0),
    "input.randaugment_ops": _NOT_NEGATIVE,
    "input.prefetch": _ONE_OR_MORE,
    "model.detector_input": Bounds(choices=("rgb", "residual")),
    "model.dtype": Bounds(choices=("float32", "bfloat16")),
    "model.bn_momentum": _SHARE,
    "model.bn_variance": Bounds(choices=("unbiased", "biased")),
    "model.wrn_preact": Bounds(choices=("usb", "tf")),
    "method.name": Bounds(choices=tuple(catalogue.METHODS)),
    "method.threshold": _SHARE,
    "method.unsup_weight": _NOT_NEGATIVE,
    "optim.learning_rate": _POSITIVE,
    "optim.momentum": _SHARE,
    "optim.weight_decay": _NOT_NEGATIVE,
    "optim.schedule": Bounds(choices=("cosine_7_16",)),
    "optim.warmup_steps": _NOT_NEGATIVE,
    "optim.ema_decay": _SHARE,
    "train.num_steps": _ONE_OR_MORE,
    "train.batch_size": _ONE_OR_MORE,
    "train.unlabeled_ratio": _ONE_OR_MORE,
    "train.real_rows": _ONE_OR_MORE,
    "train.candidate_ratio": _ONE_OR_MORE,
    "train.candidate_synthetic": _SHARE,
    "train.steps_per_dispatch": _ONE_OR_MORE,
    "train.weak_forward": Bounds(choices=("cat", "separate")),
    "eval.every_steps": _ONE_OR_MORE,
    "eval.batch_size": _ONE_OR_MORE,
    "checkpoint.every_steps": _ONE_OR_MORE,
    "checkpoint.keep": _ONE_OR_MORE,
    "log.every_steps": _ONE_OR_MORE,
}
# Keys of `data` for a user's pictures (configs/own.py), and those for other datasets.
_OF_OWN = (*sources.OWN_PLACES, "test_share", "size", "same_compression")
_OF_OTHERS = ("data_dir", "download", "synthetic_pool", "synthetic_ratio")
_OF_OTHERS += ("synthetic_mode", "synthetic_mix", "real_only")
# Keys of `method` that are read for every method: evaluation takes the threshold.
_ALWAYS_READ = ("method.name", "method.threshold")


def check(config: Any, num_devices: int):
    """Raises RequestError for a value that cannot work."""
    for key, value in workdir.flat(config.to_dict()).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RequestError(f"{key}={value}: it must be a finite number")
    for key, bounds in BOUNDS.items():
        problem = bounds.problem(get(config, key))
        if problem:
            refuse(config, key, problem)
    _check_pairs(config, num_devices)
    for key in ("classifier", "detector"):
        try:
            networks.make(config.model[key], {"real": 2})
        except RequestError as e:
            raise RequestError(f"model.{key}: {e}") from None
    catalogue.check(config)


def ignored_keys(config: Any, keys: Iterable[str]) -> dict[str, str]:
    """Returns {key: settings that read it} of the keys that the dataset or the method,
    as it is set, ignores. A block of `method` belongs to the method, or to the methods
    with the rule, of its name."""
    options = config.method
    if options.name not in catalogue.METHODS:
        return {}  # `check` refuses it
    blocks = {name for name, value in options.items() if hasattr(value, "items")}
    unused = blocks - set(catalogue.blocks_in_use(config))
    of_data = dict.fromkeys(_OF_OWN, f"data.name={sources.OWN} (--config=own)")
    if config.data.name == sources.OWN:
        of_data = dict.fromkeys(_OF_OTHERS, "datasets whose synthetic images are known")
    idle, ignored = catalogue.METHODS[options.name].idle(config), {}
    for key in keys:
        group, name = [*key.split("."), ""][:2]
        if group == "data" and name in of_data:
            ignored[key] = of_data[name]
        if group != "method" or key in _ALWAYS_READ:
            continue
        if name in unused:
            ignored[key] = " and to ".join(catalogue.owners(name))
        elif key in idle:
            ignored[key] = idle[key]
        elif name not in blocks and options.name not in catalogue.readers(key):
            ignored[key] = ", ".join(catalogue.readers(key))
    return ignored


def check_overrides(config: Any, keys: Iterable[str]):
    """Raises RequestError for a key of the command line that the dataset or the method
    ignores; a config file may hold values for all methods."""
    for key, owners in ignored_keys(config, keys).items():
        in_use = catalogue.blocks_in_use(config).items()
        reader = " with ".join(f"{path}={name}" for name, path in in_use)
        if key.startswith("data."):
            reader = f"data.name={config.data.name}"
        elif key.startswith(f"method.{config.method.name}."):
            reader = "this config"
        refuse(config, key, f"{reader} ignores it; it belongs to {owners}")


def _check_pairs(config: Any, num_devices: int):
    """Checks the keys that have to fit each other, or the devices."""
    if config.optim.warmup_steps >= config.train.num_steps:
        refuse(config, "optim.warmup_steps", "it must be below train.num_steps")
    for name in sources.OWN_PLACES if config.data.name != sources.OWN else ():
        if config.data[name] is not None:
            way_out = f"it belongs to data.name={sources.OWN}: use --config=own"
            refuse(config, f"data.{name}", f"{way_out}, or leave it out")
    ratio, mode = config.data.synthetic_ratio, config.data.synthetic_mode
    if ratio > 1 or (mode == "add" and ratio == 1):
        bound = "below 1" if mode == "add" else "at most 1"
        way_out = f"with data.synthetic_mode={mode} it must be {bound}"
        refuse(config, "data.synthetic_ratio", way_out)
    size = config.data.image_size
    if size is not None and config.input.mode == "resident":
        way_out = (
            f"with data.image_size={size} the host decodes images and makes their "
            "views; use input.mode=tfdata, or data.image_size=None for a small set"
        )
        refuse(config, "input.mode", way_out)
    _check_norms(config)
    _check_rows(config, num_devices)


def _check_norms(config: Any):
    """Checks eval.real_bn, model.split_bn and model.detector_input."""
    m = config.model
    for key in ("eval.real_bn", "model.split_bn"):
        if get(config, key) and own_encoder.is_code(m.classifier):
            way_out = f"model.classifier={m.classifier} may have norms of other kinds; "
            refuse(config, key, f"{way_out}leave it False")
    method = catalogue.METHODS[config.method.name]
    if m.detector_input != "rgb" and not method.screens:
        way_out = f"method.name={config.method.name} has no detector; leave it rgb"
        refuse(config, "model.detector_input", way_out)
    if not m.split_bn:
        return
    if not method.splits:
        able = [name for name, cls in catalogue.METHODS.items() if cls.splits]
        way_out = f"method.name={config.method.name} routes no image; use "
        refuse(
            config, "model.split_bn", f"{way_out}{' or '.join(able)}, or leave it False"
        )
    if m.init_from is not None:
        way_out = f"the weights of model.init_from={m.init_from} may lack the norms of "
        refuse(
            config, "model.split_bn", f"{way_out}synthetic rows; leave one of both out"
        )


def _check_rows(config: Any, num_devices: int):
    """Checks the images of a step."""
    t = config.train
    if t.candidate_ratio is not None:
        _check_screening(config)
    elif t.candidate_synthetic is not None:
        way_out = "it is a share of screened images; set train.candidate_ratio, or "
        refuse(config, "train.candidate_synthetic", f"{way_out}leave it out (None)")
    if t.real_rows is not None:
        rows = t.batch_size * t.unlabeled_ratio
        way_out = ""
        if not catalogue.METHODS[config.method.name].uses_unlabeled:
            way_out = f"method.name={config.method.name} takes no unlabelled image; "
            way_out += "leave it out (None)"
        elif t.real_rows > rows:
            way_out = f"a step has train.batch_size * unlabeled_ratio = {rows} "
            way_out += "unlabelled images; it must be at most that"
        if way_out:
            refuse(config, "train.real_rows", way_out)
    split = {"train.batch_size": t.batch_size}
    if t.real_rows is not None and config.data.real_only:
        split["train.real_rows"] = t.real_rows
    for key, batch in split.items():
        if batch % num_devices:
            near = max(1, round(batch / num_devices)) * num_devices
            way_out = f"use a multiple of {num_devices}, such as {near}"
            way_out = f"it is split over {num_devices} devices; {way_out}"
            refuse(config, key, way_out)


def _check_screening(config: Any):
    """Checks train.candidate_ratio."""
    t, way_out = config.train, ""
    if t.candidate_ratio < t.unlabeled_ratio:
        way_out = "the images of a step are chosen among its candidates, so it must be "
        way_out += f"at least train.unlabeled_ratio={t.unlabeled_ratio}"
    elif t.real_rows is not None:
        way_out = "train.real_rows chooses a step's images by truth; leave one of both "
        way_out += "out (None)"
    elif not catalogue.METHODS[config.method.name].screens:
        able = [name for name, cls in catalogue.METHODS.items() if cls.screens]
        way_out = f"method.name={config.method.name} has no detector that looks at "
        way_out += f"candidates; use {' or '.join(able)}, or leave it out (None)"
    if way_out:
        refuse(config, "train.candidate_ratio", way_out)
