"""Builds the parts of a run from its config: data, method, networks, first state."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rsmatch_jax import flat, optim, step
from rsmatch_jax.augment import views
from rsmatch_jax.data import normalise, pool_choice, rs_ssl, sampler, sources
from rsmatch_jax.data.stores import arrays
from rsmatch_jax.data.stores.encoded import EncodedImages
from rsmatch_jax.engine import start_weights
from rsmatch_jax.errors import RequestError
from rsmatch_jax.methods import keys
from rsmatch_jax.methods.base import HostBuffers
from rsmatch_jax.methods.catalogue import METHODS, Dims, Method
from rsmatch_jax.models import networks
from rsmatch_jax.models.networks import Head, Network
from rsmatch_jax.runtime import compilation, parallel
from rsmatch_jax.state import TrainState
from rsmatch_jax.terminal import counted


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The fixed parts of a run; what changes is in TrainState."""

    config: Any
    devices: Sequence[jax.Device]
    dims: Dims
    method: Method
    nets: Mapping[str, Network]
    tx: optax.GradientTransformation
    views: views.ViewSpec
    start: start_weights.Weights | None = None  # instead of random initial values
    # With eval.real_bn: the classifier, whose training pass returns the statistics of
    # its batch over all devices.
    moments: Network | None = None
    # First values of buffers, `Method.prepared`.
    buffers: HostBuffers = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def first_state(self) -> jax.stages.Lowered:
        """The uncompiled program seed -> state before step 0; `out_info` has shapes."""
        return jax.jit(self._first_state).lower(self.config.seed)

    def _first_state(self, seed) -> TrainState:
        return step.init_state(self.method, self.nets, self.tx, self.dims, seed)

    def init_state(self) -> TrainState:
        """Returns the state before step 0, placed on the devices."""
        platform = self.devices[0].platform
        program = compilation.compiled(self.first_state, platform)
        state = program(self.config.seed)
        if self.start is not None:
            state = start_weights.put(state, self.start)
        return self.with_buffers(parallel.replicate(state, self.devices), self.buffers)

    def with_buffers(self, state: TrainState, values: HostBuffers) -> TrainState:
        """Returns a state on the devices with other values of some buffers."""
        if not values:
            return state
        # Copied, because a CPU's device_put shares the memory of numpy and the state is
        # donated.
        new = {name: jnp.array(value) for name, value in values.items()}
        extra = {**state.extra, **parallel.replicate(new, self.devices)}
        return dataclasses.replace(state, extra=extra)

    def state_shapes(self, *, packed: bool = False) -> TrainState:
        """Returns shapes, dtypes and placement of the state; computes nothing."""
        shapes = jax.eval_shape(self._first_state, self.config.seed)
        if packed:
            shapes = jax.eval_shape(functools.partial(flat.pack, tx=self.tx), shapes)
        sharding = parallel.replicated(self.devices)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
        )

    def pack(self, state: TrainState) -> TrainState:
        """Returns a state on the devices in the form in which a run trains it."""
        return self._convert(self._forms[0], state)

    def unpack(self, state: TrainState) -> TrainState:
        """Returns the trees of a state of `pack`, which training does not donate."""
        return self._convert(self._forms[1], state)

    @functools.cached_property
    def _forms(self) -> tuple[Callable, Callable]:
        pack = functools.partial(flat.pack, tx=self.tx)
        place = parallel.replicated(self.devices)
        return jax.jit(pack, out_shardings=place), jax.jit(
            flat.unpack, out_shardings=place
        )

    def _convert(self, program: Callable, state: TrainState) -> TrainState:
        others = {"step": state.step, "key": state.key, "extra": state.extra}
        nothing: dict[str, Any] = dict.fromkeys(others)  # a queue is not copied
        networks = program(dataclasses.replace(state, **nothing))
        return dataclasses.replace(networks, **others)

    def one_step(self) -> Callable:
        """Returns one device's train step (state, batch) -> (state, metrics)."""
        return step.make_train_step(
            self.method,
            self.nets,
            self.tx,
            ema_decay=self.config.optim.ema_decay,
            ema_warmup=self.config.optim.ema_warmup,
            sync_bn=self.config.model.sync_bn,
        )

    def train_step(self) -> jax.stages.Wrapped:
        """Returns the mapped train step of `one_step`; it donates the state."""
        return parallel.map_step(self.one_step(), self.devices)


def load_task(config: Any) -> rs_ssl.Task:
    """Loads the images of the run, real and synthetic, by the config's `data` group."""
    d = config.data
    split_seed = config.seed if d.split_seed is None else d.split_seed
    if d.name == sources.OWN:
        return _load_own_task(config, split_seed)
    sources.check_places(d.data_dir, d.synthetic_pool)
    options = {"cache_dir": d.cache_dir, "image_size": d.image_size}
    train, test, unlabelled = sources.load_splits(
        d.name, data_dir=d.data_dir, download=d.download, **options
    )
    train, test, pool = _rgb(train), _rgb(test), None
    if unlabelled is not None:
        unlabelled = _rgb(unlabelled)
    if d.synthetic_ratio > 0 and not d.real_only:
        folder = d.synthetic_pool or sources.default_pool(d.name, d.data_dir)
        pool = _rgb(sources.load_pool(folder, **options))
        pool = pool_choice.renumbered(pool, train.class_names)
    split = rs_ssl.make_split(
        train,
        pool,
        labels_per_class=d.labels_per_class,
        validation_per_class=d.validation_per_class,
        ratio=d.synthetic_ratio,
        mode=d.synthetic_mode,
        mix=d.synthetic_mix,
        seed=split_seed,
        unlabelled=unlabelled,
    )
    return rs_ssl.make_task(train, test, pool, split, unlabelled)


def _load_own_task(config: Any, split_seed: int) -> rs_ssl.Task:
    """Loads a user's pictures; RequestError if the unlabelled ones fill no batch."""
    # Lazy: a GPU's machine may lack Pillow.
    from rsmatch_jax.data import user_parts, user_task

    d, t = config.data, config.train
    task = user_task.load_task(
        user_parts.Places(d.labeled, d.unlabeled, d.test, d.origins, d.cache_dir),
        size=d.image_size or d.size,
        encode=d.image_size is not None,
        alike=d.same_compression,
        test_share=d.test_share,
        labels_per_class=d.labels_per_class,
        validation_per_class=d.validation_per_class,
        seed=split_seed,
    )
    rows = t.batch_size * t.unlabeled_ratio
    collected = len(task.unl_labels) - len(task.split.unlabeled_real)
    if collected < rows and METHODS[config.method.name].uses_unlabeled:
        raise RequestError(
            f"data.unlabeled={d.unlabeled} has {counted(collected, 'readable picture')}"
            f", fewer than the train.batch_size * unlabeled_ratio = {rows} of a step; "
            "collect more, or lower one of the two"
        )
    return task


def task_dims(config: Any, task: rs_ssl.Task) -> Dims:
    """Returns the static sizes of a run; crop_pad=None is 1/8 of the image size."""
    size = task.unl_images.shape[1]
    return Dims(
        num_classes=len(task.class_names),
        image_shape=task.unl_images.shape[1:],
        batch_size=config.train.batch_size,
        unlabeled_batch=keys.unlabelled_rows(config),
        crop_pad=size // 8 if config.input.crop_pad is None else config.input.crop_pad,
        num_labeled=len(task.lab_images),
        num_unlabeled=len(task.unl_images),
    )


def unlabelled_parts(config: Any, task: rs_ssl.Task) -> sampler.Parts | None:
    """Returns the parts of a step's unlabelled images for train.real_rows, None without
    it; raises RequestError if the images cannot make them."""
    count, rows = config.train.real_rows, keys.unlabelled_rows(config)
    if count is None:
        return None
    real, synthetic = (
        np.flatnonzero(kind).astype(np.int32)
        for kind in (task.unl_real, task.unl_synthetic)
    )
    for word, number, images in (
        ("real", count, real),
        ("synthetic", rows - count, synthetic),
    ):
        if number and not len(images):
            way_out = f"a step takes {number} {word} unlabelled images, but none is "
            way_out += f"known to be {word}; leave this control out (None)"
            keys.refuse(config, "train.real_rows", way_out)
    if len(real) + len(synthetic) < len(task.unl_origins):
        way_out = "the origin of some unlabelled images is unknown, so they cannot be "
        way_out += "dealt by it; leave this control out (None)"
        keys.refuse(config, "train.real_rows", way_out)
    return sampler.Parts(real, synthetic, count)


def describe_data(task: rs_ssl.Task, dims: Dims) -> dict[str, Any]:
    """Returns what a workdir keeps of its data, to be opened without them: JSON."""
    return {
        "dataset": task.name,
        "class_names": list(task.class_names),
        "generator_names": list(task.generator_names),
        "dims": {**dataclasses.asdict(dims), "image_shape": list(dims.image_shape)},
    }


def build(
    config: Any,
    dims: Dims,
    dataset: str,
    devices: Sequence[jax.Device],
    saved_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Experiment:
    """Builds everything but the images; `dataset` decides how they are normalised.
    saved_shapes: of a checkpoint's leaves. A run keeps those of an earlier version."""
    method = METHODS[config.method.name].make(config, dims)
    if saved_shapes:
        method = method.as_saved(saved_shapes)
    spec = views.ViewSpec(
        flip=config.input.flip,
        crop_pad=dims.crop_pad,
        randaugment_ops=config.input.randaugment_ops,
        cutout=config.input.cutout,
        crop_area=config.input.crop_area,
    )
    views.check(spec, dims.image_shape[0])
    nets, sgds, moments = {}, {}, None
    for name, heads in method.heads(dims.num_classes).items():
        make = functools.partial(network, config, name, heads, dataset)
        nets[name] = make(
            bn_momentum=config.model.bn_momentum,
            sync_axis=parallel.AXIS if config.model.sync_bn else None,
            bn_variance=config.model.bn_variance,
        )
        if name == "classifier" and config.eval.real_bn:
            batch_alone = {"bn_momentum": 0.0, "bn_variance": "biased"}
            moments = make(sync_axis=parallel.AXIS, **batch_alone)
        o: dict[str, Any] = {**config.optim, **method.optimiser().get(name, {})}
        sgds[name] = optim.SGD(
            o["learning_rate"], o["momentum"], o["nesterov"], o["weight_decay"]
        )
    tx = optim.make(sgds, config.train.num_steps, config.optim.warmup_steps)
    return Experiment(config, devices, dims, method, nets, tx, spec, moments=moments)


def network(
    config: Any, name: str, heads: Mapping[str, Head], dataset: str, **norms: Any
) -> Network:
    """Returns one of a run's networks, for uint8 images. norms: options of BatchNorm,
    see `layers.Layers`."""
    m = config.model
    options = {"dtype": jnp.dtype(m.dtype), "wrn_preact": m.wrn_preact}
    options["split_bn"] = m.split_bn and name == "classifier"
    net = networks.make(m[name], heads, **options, **norms)
    return networks.take_uint8(
        net,
        *normalise.normalisation(dataset),
        with_residual=name == "detector" and m.detector_input == "residual",
    )


def _rgb(data: arrays.ImageArrays) -> arrays.ImageArrays:
    """Returns the images with the three channels that networks take."""
    if isinstance(data.images, EncodedImages):  # decoding makes three
        return data
    return dataclasses.replace(data, images=arrays.to_rgb(data.images))
