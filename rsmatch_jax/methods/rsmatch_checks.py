"""What RSMatch refuses in a config and warns of in a run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods import keys

# An interval with fewer unlabelled images may be of one origin by chance.
FEWEST_IMAGES = 1000
WITH_QUEUE = "detector_loss=queue or queue+nnpu"


def check(config: keys.Config):
    """Raises RequestError for keys of RSMatch that do not fit each other."""

    def refuse(name, way_out):
        keys.refuse(config, f"method.rsmatch.{name}", way_out)

    options, data = config.method.rsmatch, config.data
    rows = keys.unlabelled_rows(config)
    has_queue = "queue" in options.detector_loss
    holders = {
        "a queue holds method.rsmatch.queue_length={} images": options.queue_length,
        "a step has train.batch_size * unlabeled_ratio = {} unlabelled images": rows,
    }
    for holder, most in holders.items():
        if has_queue and options.queue_push > most:
            refuse("queue_push", f"{holder.format(most)}; push at most as many")
    _check_judges(config)
    if config.model.detector_input != "rgb" and not options.individual_models:
        way_out = "with individual_models=False the detector is a head on the "
        way_out += "classifier; leave it rgb"
        keys.refuse(config, "model.detector_input", way_out)
    of_unknown_origin = data.name == "own"  # configs/own.py
    if of_unknown_origin and options.routing == "random":
        refuse(
            "routing",
            "nobody knows the share of synthetic images that the coin needs; use "
            "method.rsmatch.routing=detector",
        )
    for name, nothing in (("synthetic_ratio", 0), ("real_only", True)):
        is_clean = data[name] == nothing and not of_unknown_origin
        if options.routing == "oracle" and is_clean:
            refuse(
                "routing",
                f"with data.{name}={data[name]} no unlabelled image is synthetic and "
                "there is nothing to route by; set data.synthetic_ratio above 0 and "
                "data.real_only=False, or use method.rsmatch.routing=detector",
            )
    for name, neutral, reader in _without_effect(options):
        if options[name] != neutral:
            refuse(name, f"only {reader} reads it; leave it {neutral}")
    if "nnpu" in options.detector_loss:
        _check_nnpu(config)
    if options.detector_turns:
        _check_turns(config)
    for name in ("detector_learning_rate", "detector_weight_decay"):
        if not options.individual_models and options[name] is not None:
            refuse(
                name,
                "with individual_models=False the detector shares the classifier's "
                "optimiser; leave it None",
            )


def _check_nnpu(config: keys.Config):
    loss = f"method.rsmatch.detector_loss={config.method.rsmatch.detector_loss}"
    if config.train.weak_forward == "separate":
        way_out = f"the weak views have no gradient then, and {loss} needs it; use "
        way_out += "train.weak_forward=cat"
        keys.refuse(config, "train.weak_forward", way_out)
    if config.train.candidate_ratio is not None:
        way_out = "the images of a step are chosen by their score, so their share of "
        way_out += f"synthetic ones is not the one that {loss} takes; leave it out "
        way_out += "(None), or use method.rsmatch.detector_loss=queue"
        keys.refuse(config, "train.candidate_ratio", way_out)


def _check_judges(config: keys.Config):
    """Checks the keys that need a verdict on an image outside of the step's loss."""
    options = config.method.rsmatch
    at_once = options.routing in ("random", "entropy")
    if config.train.candidate_ratio is not None:
        if at_once:
            way_out = "routing does not judge an image before the step, so it cannot "
            way_out += "screen; leave train.candidate_ratio out"
            keys.refuse(config, "method.rsmatch.routing", way_out)
        if options.routing == "detector" and not options.individual_models:
            way_out = "the detector would cost as much as the classifier for every "
            way_out += "candidate; leave train.candidate_ratio out"
            keys.refuse(config, "method.rsmatch.individual_models", way_out)
    if config.model.split_bn:
        way_out = ""
        if options.routing == "entropy":
            way_out = (
                "routing=entropy judges by the classifier's output, and its norms "
            )
            way_out += "must know before"
        elif not options.individual_models:
            way_out = "with individual_models=False the detector is on the classifier, "
            way_out += "whose norms must know its verdicts before"
        if way_out:
            keys.refuse(config, "model.split_bn", f"{way_out}; leave it False")
    if config.eval.real_bn:
        if at_once:
            way_out = f"routing={options.routing} judges in a step alone, so no image "
            way_out += "counts as real in evaluation; leave it False"
            keys.refuse(config, "eval.real_bn", way_out)
        if not options.individual_models:
            way_out = "with individual_models=False the detector has the classifier's "
            way_out += "statistics, and its verdicts would change; leave it False"
            keys.refuse(config, "eval.real_bn", way_out)


def _check_turns(config: keys.Config):
    """Refuses turned images where their position would give away their origin."""
    options, way_out = config.method.rsmatch, ""
    if not options.individual_models:
        way_out = "with individual_models=False the classifier would learn from turned "
        way_out += "images"
    elif "nnpu" in options.detector_loss:
        loss = options.detector_loss
        way_out = f"detector_loss={loss} compares labelled images with unlabelled "
        way_out += "ones, which are not turned"
    if way_out:
        key = "method.rsmatch.detector_turns"
        keys.refuse(config, key, f"{way_out}; leave it False")


def _without_effect(options: keys.Config) -> Iterator[tuple[str, Any, str]]:
    """Yields (key, the value that it must have, the setting that would read it)."""
    has_queue = "queue" in options.detector_loss
    if options.routing != "detector":
        yield "route_threshold", 0.0, "routing=detector"
        if not has_queue:
            yield "prior", "none", f"routing=detector or {WITH_QUEUE}"
    if not options.fake_head:
        yield "synthetic_weight", "one", "fake_head=True"
        yield "fake_weight", 1.0, "fake_head=True"
    if "nnpu" not in options.detector_loss:
        yield "synthetic_prior", None, "detector_loss=nnpu or queue+nnpu"
    if not has_queue:
        for name in ("queue_min_confidence", "queue_min_score"):
            yield name, 0.0, WITH_QUEUE
        yield "queue_reaugment", False, WITH_QUEUE
        yield "classwise_queue", True, WITH_QUEUE


def idle(config: keys.Config) -> dict[str, str]:
    """See `Method.idle`: of the queue, what configs/own.py and others may change."""
    if "queue" in config.method.rsmatch.detector_loss:
        return {}
    names = ("queue_length", "queue_classes", "queue_push", "queue_sample")
    return {f"method.rsmatch.{name}": f"method.rsmatch.{WITH_QUEUE}" for name in names}


def check_data(
    config: keys.Config, num_classes: int, num_synthetic: int | None
) -> list[str]:
    """See `Method.check_data`."""
    options, warnings = config.method.rsmatch, []
    if options.routing == "oracle" and num_synthetic is None:
        keys.refuse(
            config,
            "method.rsmatch.routing",
            "the origin of some unlabelled images is unknown, so there is nothing to "
            "route them by; name all in data.origins, or use routing=detector",
        )
    if num_synthetic == 0:
        warnings.append(
            "no unlabelled image is synthetic (data.real_only or data.synthetic_ratio="
            "0); the detector can only learn to be wrong"
        )
    if "queue" in options.detector_loss:
        warnings += _check_queue(config, num_classes)
    return warnings


def _check_queue(config: keys.Config, num_classes: int) -> list[str]:
    """Returns warnings; raises RequestError for a queue that cannot give its images."""
    options, batch = config.method.rsmatch, config.train.batch_size
    rows = keys.unlabelled_rows(config)
    single = options.queue_push * min(options.queue_classes, num_classes)
    if not options.classwise_queue and single > rows:
        raise RequestError(
            f"method.rsmatch.queue_classes={options.queue_classes} times queue_push="
            f"{options.queue_push}: the single queue takes {single} images a step, "
            f"which has train.batch_size * unlabeled_ratio = {rows} unlabelled ones; "
            "lower either of the two"
        )
    capacity = num_classes * options.queue_length
    if options.queue_sample == "distinct" and capacity < batch:
        raise RequestError(
            f"the CSQueue holds {num_classes} classes * method.rsmatch.queue_length="
            f"{options.queue_length} = {capacity} images and can never give train."
            f"batch_size={batch} different ones; lengthen it or use "
            "method.rsmatch.queue_sample=uniform"
        )
    if options.queue_classes > num_classes and config.data.name != "own":
        return [
            f"method.rsmatch.queue_classes={options.queue_classes} is more than the "
            f"{num_classes} classes; all of them are updated every step"
        ]
    return []


def alarms(
    steps: Sequence[Mapping[str, float]], *, first: bool, images_a_step: int
) -> dict[str, str]:
    """See `Method.alarms`. The first interval has none: the queue fills then."""
    if first:
        return {}
    alarms = {}
    shares = {step["detector_synthetic"] for step in steps}
    enough = len(steps) * images_a_step >= FEWEST_IMAGES
    for share, word, other in ((0.0, "real", "synthetic"), (1.0, "synthetic", "real")):
        if enough and shares == {share}:
            alarms[f"detector says all {word}"] = (
                f"the detector called every unlabelled image {word} for a whole log "
                f"interval ({len(steps)} steps): it has collapsed, or no image is "
                f"{other}. See eval/detector_balanced_accuracy; "
                "method.rsmatch.detector_loss, detector_threshold, "
                "detector_learning_rate and queue_length decide how it learns"
            )
    if steps[-1].get("queue_fill") == 0:
        alarms["queue empty"] = (
            "the CSQueue is still empty after the first log interval, so the detector "
            "learns from real images alone; method.rsmatch.queue_min_score and "
            "queue_min_confidence decide what enters it"
        )
    return alarms
