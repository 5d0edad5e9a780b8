"""What a new run begins from instead of random values: model.init_from.

From a run it takes the EMA weights with the running statistics, which are what every
evaluation and export of that run used: before its first step the new run's outputs are
those of the finished one. Momenta, averages and a method's buffers begin anew.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax import files
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods.catalogue import Method
from rsmatch_jax.models import weight_file
from rsmatch_jax.runs import workdir
from rsmatch_jax.runs.checkpoint_folder import CheckpointFolder
from rsmatch_jax.state import TrainState

Weights = Mapping[str, np.ndarray]  # by path, such as params/classifier/heads/real/bias
Shapes = dict[str, tuple[int, ...]]
_ENCODER = "encoder"


def read(
    config: Any, method: Method, shapes: TrainState, class_names: Sequence[str]
) -> tuple[Weights, str]:
    """Returns the weights of model.init_from that fit the run, and a line about them.

    shapes: of the run's state. Raises RequestError if there are none, or if the
    classifier's encoder differs.
    """
    place = config.model.init_from
    if os.path.isdir(place):
        weights, line = _of_run(config, method, shapes, class_names)
    elif os.path.isfile(place) and place.endswith(weight_file.SUFFIX):
        weights, line = _of_file(config, shapes)
    else:
        exists = os.path.exists(place)
        reason = f"is no {weight_file.SUFFIX} file" if exists else "does not exist"
        raise RequestError(
            f"model.init_from={place} {reason}; name the workdir of a run, or a "
            f"{weight_file.SUFFIX} file (from a model in PyTorch: "
            "safetensors.torch.save_file(model.state_dict(), FILE))"
        )
    for path, array in weights.items():
        if not np.isfinite(array).all():
            raise RequestError(f"model.init_from={place}: {path} is not finite")
    return weights, f"model.init_from={place}: {line}"


def digest(weights: Weights) -> str:
    """Returns a SHA-256 of paths and bits."""
    sha = hashlib.sha256()
    for path, array in sorted(weights.items()):
        sha.update(path.encode() + np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def put(state: TrainState, weights: Weights) -> TrainState:
    """Returns a state before step 0 with these weights, as parameters and averages."""

    def replaced(name: str, tree: Any) -> Any:
        def leaf(path, before):
            place = jax.tree_util.keystr(path, simple=True, separator="/")
            new = weights.get(f"{name}/{place}")
            # Copied, because a CPU's device_put shares the memory of numpy: the state
            # is donated, so none of its leaves may share memory with another.
            return before if new is None else jnp.array(new)

        return jax.tree_util.tree_map_with_path(leaf, tree)

    return dataclasses.replace(
        state,
        params=replaced("params", state.params),
        ema=replaced("params", state.ema),
        stats=replaced("stats", state.stats),
    )


def _of_file(config: Any, shapes: TrainState) -> tuple[dict[str, np.ndarray], str]:
    """The encoder of the classifier, from a .safetensors file."""
    place, name = config.model.init_from, config.model.classifier
    if not name.startswith("resnet"):
        raise RequestError(
            f"model.init_from={place}: a {weight_file.SUFFIX} file is read for "
            f"resnet18 and resnet50 by torchvision's names, and model.classifier={name}"
        )
    flat = _flat("params", shapes.params["classifier"][_ENCODER])
    flat |= _flat("stats", shapes.stats["classifier"][_ENCODER])
    like = {path.partition("/")[2]: shape for path, shape in flat.items()}
    try:
        arrays, others = weight_file.resnet(place, like)
    except RequestError as e:
        raise RequestError(f"model.init_from: {e} (model.classifier={name})") from None
    weights = {}
    for path in flat:
        group, _, inner = path.partition("/")
        weights[f"{group}/classifier/{_ENCODER}/{inner}"] = arrays[inner]
    line = f"the classifier's encoder {name} begins from its {len(arrays)} arrays"
    anew = [n for n in shapes.params if n != "classifier"]
    line += "; new are " + ", ".join(["heads", *(f"the {n}" for n in anew)])
    return weights, line + (f"; unused: {weight_file.listed(others)}" if others else "")


def _of_run(
    config: Any, method: Method, shapes: TrainState, class_names: Sequence[str]
) -> tuple[dict[str, np.ndarray], str]:
    """What fits of the networks in a workdir's newest checkpoint."""
    place = config.model.init_from
    options, step, arrays = _newest(place)
    data = files.read_json(os.path.join(place, workdir.DATA_FILE)) or {}
    same_classes = data.get("class_names") == list(class_names)
    weights: dict[str, np.ndarray] = {}
    taken, anew, unused = [], [], []
    for network in sorted(shapes.params):
        there = _units({k: v.shape for k, v in arrays.items()}, network)
        flat = {**_flat("params", shapes.params), **_flat("stats", shapes.stats)}
        here = _units(flat, network)
        problem = _difference(there.get(_ENCODER, {}), here[_ENCODER])
        problem = problem or _other_form(network, options, config.model)
        if problem and network == "classifier":
            raise RequestError(
                f"model.init_from={place}: {problem}; model.classifier="
                f"{options.get(network)} there, {config.model[network]} here"
            )
        if problem:
            anew.append(f"the {network} ({problem if there else 'none there'})")
            continue
        parts = []
        for unit, leaves in here.items():
            problem = _difference(there.get(unit, {}), leaves)
            if _knows_classes(unit, network, method, len(class_names)):
                problem = problem or (None if same_classes else "other classes")
            if problem:
                anew.append(f"{network} {unit} ({problem})")
                continue
            parts.append(unit.removeprefix("heads/"))
            weights |= {path: arrays[path] for path in leaves}
        taken.append(f"{network} ({', '.join(parts)})")
        unused += [f"{network} {unit}" for unit in there if unit not in here]
    networks = {path.split("/")[1] for path in arrays}
    unused += sorted(f"the {n}" for n in networks - {*shapes.params})
    line = f"begins from step {step}, EMA weights of {', '.join(taken)}"
    line += f"; new: {', '.join(anew)}" if anew else ""
    return weights, line + (f"; unused: {', '.join(unused)}" if unused else "")


def _newest(place: str) -> tuple[dict[str, Any], int, dict[str, np.ndarray]]:
    """A workdir's config of its model, its newest step and the weights there."""
    from rsmatch_jax.runs import orbax_parts  # lazy: experiments need no Orbax

    saved, checkpoints = workdir.read_config(place), CheckpointFolder(place)
    steps = checkpoints.steps()
    if saved is None or not steps:
        reason = "nothing is saved there yet" if saved else "it holds no run"
        raise RequestError(f"model.init_from={place}: {reason}; name another workdir")
    try:
        arrays = orbax_parts.weights(checkpoints.path, steps[-1])
    except RequestError as e:
        raise RequestError(f"model.init_from={place}: {e}") from None
    return saved.get("model") or {}, steps[-1], arrays


def _units(leaves: Mapping[str, Any], network: str) -> dict[str, dict[str, Any]]:
    """{encoder or heads/<name>: its leaves by path}, of one network."""
    units: dict[str, dict[str, Any]] = {}
    for path, leaf in leaves.items():
        _, name, *inner = path.split("/")
        if name == network:
            unit = inner[0] if inner[0] == _ENCODER else "/".join(inner[:2])
            units.setdefault(unit, {})[path] = leaf
    return units


def _difference(there: Shapes, here: Shapes) -> str | None:
    """What differs between the shapes of the same part of two runs, None = nothing."""
    for path in sorted({*there, *here}):
        a, b = there.get(path), here.get(path)
        if a != b:
            inner = path.split("/", 2)[2]
            if not there:
                return "none there"
            return f"{inner} is {a or 'missing'} there, {b or 'missing'} here"
    return None


def _other_form(network: str, there: Mapping[str, Any], here: Any) -> str | None:
    """A setting by which a WRN of equal shapes computes something else."""
    form = there.get("wrn_preact")
    if str(here[network]).startswith("wrn_") and form != here.wrn_preact:
        return f"model.wrn_preact={form} there, {here.wrn_preact} here"
    return None


def _knows_classes(unit: str, network: str, method: Method, num_classes: int) -> bool:
    """Whether the outputs of a head are classes: their number follows the classes'."""
    head = unit.partition("/")[2]
    few, more = (method.heads(k)[network].get(head) for k in (num_classes, 99_999))
    return few != more


def _flat(group: str, tree: Any) -> Shapes:
    from rsmatch_jax.runs import orbax_parts  # lazy, as above

    return {
        f"{group}/{path}": tuple(leaf.shape) for path, leaf in orbax_parts.leaves(tree)
    }
