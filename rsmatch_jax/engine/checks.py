"""Checks of a config before anything is loaded: every wrong value is named with its key
and a way out. What depends on the data is checked where the data is."""

import math
from collections.abc import Iterable
from typing import Any, NoReturn

from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods import csqueue, simmatch
from rsmatch_jax.methods.catalogue import METHODS, RULES
from rsmatch_jax.models import networks

SMALLEST = 8  # px; below, four stages of a network have nothing to look at
CHOICES = {
    "data.synthetic_mode": ("replace", "add"),
    "input.mode": ("auto", "resident", "tfdata"),
    "model.dtype": ("float32", "bfloat16"),
    "model.wrn_preact": ("usb", "tf"),
    "method.name": tuple(METHODS),
    "method.rsmatch.pseudo_label": tuple(RULES),
    "method.rsmatch.queue_sample": tuple(csqueue.SAMPLERS),
    "method.rsmatch.routing": ("detector", "oracle", "random"),
    "method.simmatch.bank_norm": tuple(simmatch.BANK_NORMS),
    "optim.schedule": ("cosine_7_16",),
    "train.weak_forward": ("cat", "separate"),
}
AT_LEAST_ONE = (
    "data.labels_per_class",
    "input.prefetch",
    "method.rsmatch.queue_length",
    "method.rsmatch.queue_classes",
    "method.rsmatch.queue_push",
    "method.simmatch.projection_size",
    "method.simmatch.da_length",
    "train.num_steps",
    "train.batch_size",
    "train.unlabeled_ratio",
    "train.steps_per_dispatch",
    "eval.every_steps",
    "eval.batch_size",
    "checkpoint.every_steps",
    "checkpoint.keep",
    "log.every_steps",
)
NOT_NEGATIVE = (
    "seed",
    "data.validation_per_class",
    "data.synthetic_ratio",
    "data.split_seed",
    "input.resident_budget_gb",
    "input.crop_pad",
    "input.randaugment_ops",
    "method.unsup_weight",
    "method.freematch.entropy_weight",
    "method.rsmatch.detector_unsup_weight",
    "method.rsmatch.detector_learning_rate",
    "method.rsmatch.detector_weight_decay",
    "method.rsmatch.fake_weight",
    "method.rsmatch.route_warmup_steps",
    "method.simmatch.instance_weight",
    "method.simmatch.warmup_steps",
    "optim.weight_decay",
    "optim.warmup_steps",
)
SHARES = (
    "method.threshold",
    "method.freematch.ema_decay",
    "method.rsmatch.queue_min_confidence",
    "method.rsmatch.queue_min_score",
    "method.rsmatch.detector_threshold",
    "method.rsmatch.route_threshold",
    "method.simmatch.smoothing",
    "method.simmatch.bank_decay",
    "model.bn_momentum",
    "input.crop_area",
    "optim.momentum",
    "optim.ema_decay",
)


def check(config: Any, num_devices: int):
    """Raises RequestError for a value that cannot work."""
    _check_finite(config, "")
    for key, allowed in CHOICES.items():
        if get(config, key) not in allowed:
            _refuse(config, key, f"choose {' or '.join(allowed)}")
    for key in AT_LEAST_ONE:
        if get(config, key) < 1:
            _refuse(config, key, "it must be 1 or more")
    for key in NOT_NEGATIVE:
        value = get(config, key)
        if value is not None and value < 0:
            _refuse(config, key, "it must be 0 or more")
    for key in SHARES:
        if not 0 <= get(config, key) <= 1:
            _refuse(config, key, "it must lie between 0 and 1")
    for key in ("seed", "data.split_seed"):
        if (get(config, key) or 0) >= 2**31:
            _refuse(config, key, "it must be below 2**31")
    if not config.optim.learning_rate > 0:
        _refuse(config, "optim.learning_rate", "it must be above 0")
    if config.optim.warmup_steps >= config.train.num_steps:
        _refuse(config, "optim.warmup_steps", "it must be below train.num_steps")
    _check_ratio(config)
    _check_image_size(config)
    _check_batch(config, num_devices)
    for key in ("classifier", "detector"):
        try:
            networks.make(config.model[key], {"real": 2})
        except RequestError as e:
            raise RequestError(f"model.{key}: {e}") from None
    if not config.method.simmatch.temperature > 0:
        _refuse(config, "method.simmatch.temperature", "it must be above 0")
    if config.method.simmatch.epass and config.method.name != "simmatch":
        _refuse(
            config,
            "method.simmatch.epass",
            f"method.name={config.method.name} has no projector; EPASS belongs to "
            "method.name=simmatch",
        )
    if config.method.name == "rsmatch":
        _check_rsmatch(config)


def ignored_keys(config: Any, keys: Iterable[str]) -> dict[str, str]:
    """{dotted key: whose it is} for those of the keys that the config's method ignores.

    A block of `method` belongs to the method of its name, a pseudo-labelling rule's
    also to RSMatch on that rule; lambda to all methods that use unlabelled images.
    """
    own = config.method
    if own.name not in METHODS:
        return {}  # `check` says so
    used = {own.name}
    if own.name == "rsmatch":
        used.add(own.rsmatch.pseudo_label)
    blocks = {name for name, value in own.items() if hasattr(value, "items")}
    found = {}
    for key in keys:
        group, block = [*key.split("."), ""][:2]
        if group == "method" and block in blocks - used:
            found[key] = f"method.name={block}"
            if block in RULES:
                found[key] += f" and to method.rsmatch.pseudo_label={block}"
        if key == "method.unsup_weight" and own.name == "supervised":
            found[key] = ", ".join(name for name in METHODS if name != own.name)
    return found


def check_overrides(config: Any, keys: Iterable[str]):
    """Raises RequestError for a key set on the command line that the method ignores.

    A config file may hold values for all methods; whoever types a key means it to
    matter.
    """
    own = config.method
    said = f"method.name={own.name}"
    if own.name == "rsmatch":
        said += f" with method.rsmatch.pseudo_label={own.rsmatch.pseudo_label}"
    for key, owners in ignored_keys(config, keys).items():
        _refuse(config, key, f"{said} ignores it; it belongs to {owners}")


def check_queue(config: Any, num_classes: int, num_synthetic: int) -> list[str]:
    """The checks of RSMatch that need the data's sizes; returns warnings."""
    own, batch = config.method.rsmatch, config.train.batch_size
    warnings = []
    if not num_synthetic:
        warnings.append(
            "no unlabelled image is synthetic (data.real_only or data.synthetic_ratio="
            "0); the detector can only learn to be wrong"
        )
    unlabeled = batch * config.train.unlabeled_ratio
    single = own.queue_push * min(own.queue_classes, num_classes)
    if not own.classwise_queue and single > unlabeled:
        raise RequestError(
            f"method.rsmatch.queue_classes={own.queue_classes} times queue_push="
            f"{own.queue_push}: the single queue takes {single} images a step, which "
            f"has {unlabeled} unlabelled ones (train.batch_size * train."
            "unlabeled_ratio); lower either of the two"
        )
    capacity = num_classes * own.queue_length
    if own.queue_sample == "distinct" and capacity < batch:
        raise RequestError(
            f"the CSQueue holds {num_classes} classes * method.rsmatch.queue_length="
            f"{own.queue_length} = {capacity} images and can never give train."
            f"batch_size={batch} different ones; lengthen it or use "
            "method.rsmatch.queue_sample=uniform"
        )
    if own.queue_classes > num_classes:
        warnings.append(
            f"method.rsmatch.queue_classes={own.queue_classes} is more than the "
            f"{num_classes} classes; all of them are updated every step"
        )
    return warnings


def _check_ratio(config: Any):
    ratio, mode = config.data.synthetic_ratio, config.data.synthetic_mode
    if ratio > 1 or (mode == "add" and ratio == 1):
        bound = "below 1" if mode == "add" else "at most 1"
        _refuse(
            config,
            "data.synthetic_ratio",
            f"with data.synthetic_mode={mode} it must be {bound}",
        )


def _check_image_size(config: Any):
    size = config.data.image_size
    if not config.input.crop_area > 0:
        _refuse(config, "input.crop_area", "it must be above 0")
    if size is None:
        return
    if size < SMALLEST:
        _refuse(config, "data.image_size", f"it must be {SMALLEST} or more")
    if config.input.mode == "resident":
        _refuse(
            config,
            "input.mode",
            f"with data.image_size={size} images stay encoded and their views are "
            "made on the host; use input.mode=tfdata, or data.image_size=None for a "
            "set that is small enough",
        )


def _check_batch(config: Any, num_devices: int):
    batch = config.train.batch_size
    if batch % num_devices:
        _refuse(
            config,
            "train.batch_size",
            f"it is split over {num_devices} devices; use a multiple of {num_devices}, "
            f"such as {max(1, round(batch / num_devices)) * num_devices}",
        )


def _check_rsmatch(config: Any):
    own = config.method.rsmatch
    unlabeled = config.train.batch_size * config.train.unlabeled_ratio
    if own.queue_push > own.queue_length:
        _refuse(
            config,
            "method.rsmatch.queue_push",
            f"a queue holds method.rsmatch.queue_length={own.queue_length} images; "
            "push at most as many",
        )
    if own.queue_push > unlabeled:
        _refuse(
            config,
            "method.rsmatch.queue_push",
            f"a step has {unlabeled} unlabelled images (train.batch_size * "
            "train.unlabeled_ratio); push at most as many",
        )
    if own.routing == "oracle":
        for key, nothing in (("synthetic_ratio", 0), ("real_only", True)):
            if config.data[key] == nothing:
                _refuse(
                    config,
                    "method.rsmatch.routing",
                    f"with data.{key}={config.data[key]} no unlabelled image is "
                    "synthetic and there is nothing to route by; set "
                    "data.synthetic_ratio above 0 and data.real_only=False, or use "
                    "method.rsmatch.routing=detector",
                )
    if not own.individual_models:
        for key in ("detector_learning_rate", "detector_weight_decay"):
            if own[key] is not None:
                _refuse(
                    config,
                    f"method.rsmatch.{key}",
                    "with individual_models=False the detector has no optimiser of "
                    "its own; leave it None",
                )


def _check_finite(group: Any, prefix: str):
    for key, value in group.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RequestError(f"{prefix}{key}={value}: it must be a finite number")
        if hasattr(value, "items"):
            _check_finite(value, f"{prefix}{key}.")


def get(config: Any, key: str) -> Any:
    """The value of a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config


def _refuse(config: Any, key: str, way_out: str) -> NoReturn:
    raise RequestError(f"{key}={get(config, key)}: {way_out}")
