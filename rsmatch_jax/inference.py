"""A trained classifier and detector on images, without anything else of training.

Inference needs the encoder and the real head alone (paper, section 4.4); the detector
is asked beside them where a run has one.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsmatch_jax import compilation, models, saved
from rsmatch_jax.data import normalise
from rsmatch_jax.models import Network, uint8
from rsmatch_jax.state import PyTree

BATCH = 256
_AHEAD = 2  # batches under way at most


class Predictions(NamedTuple):
    """Of N images: probabilities float32 [N, K] of the real head; synthetic_scores
    float32 [N] (Eq. 1), None where the run has no detector."""

    probabilities: np.ndarray
    synthetic_scores: np.ndarray | None

    @property
    def labels(self) -> np.ndarray:
        """int64 [N], the most probable class."""
        return self.probabilities.argmax(axis=1)


@dataclasses.dataclass(frozen=True)
class Part:
    """One network cut down to what inference needs: its encoder and one head.

    params, stats: EMA parameters and running statistics, of these alone.
    """

    name: str
    head: str
    classes: int
    net: Network
    params: PyTree
    stats: PyTree

    def outputs(self, params: PyTree, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """uint8 [n, S, S, 3] -> (features float32 [n, D], probabilities [n, K])."""
        found, _ = self.net.apply(params, self.stats, images, False)
        return found.features, jax.nn.softmax(found.logits[self.head])


def parts(run: saved.Saved) -> dict[str, Part]:
    """ "classifier" with its real head, and where there is one the "detector"."""
    heads = run.exp.method.heads(run.exp.dims.num_classes)
    found = {}
    for part, head in (("classifier", "real"), ("detector", "detector")):
        for network, own in heads.items():
            if head in own:
                found[part] = _cut(run, part, network, head, own[head])
    return found


def _cut(run: saved.Saved, part: str, network: str, head: str, classes: int) -> Part:
    model = run.exp.config.model
    mean, std = normalise.normalisation(run.dataset)
    net = models.make(
        model.classifier if network == "classifier" else model.detector,
        {head: classes},
        dtype=jnp.dtype(model.dtype),
        preact=model.wrn_preact,
    )
    shadow = run.state.ema[network]
    params = {"encoder": shadow["encoder"], "heads": {head: shadow["heads"][head]}}
    return Part(
        name=part,
        head=head,
        classes=classes,
        net=uint8.take_uint8(net, mean, std),
        params=params,
        stats=run.state.stats[network],
    )


class Model:
    """A trained run that judges images.

    class_names: K names in the order of labels. image_size: S, the side in pixels that
    it was trained at. step: of the checkpoint. run: everything that was saved.
    """

    def __init__(self, run: saved.Saved, batch_size: int = BATCH):
        self.run, self.step = run, run.step
        self.class_names = run.class_names
        self.image_size = run.exp.dims.image_shape[0]
        self.parts = parts(run)
        self.batch_size = batch_size
        self._device = run.exp.devices[0]
        self._programs: dict[Any, Callable] = {}

    def predict(self, images: np.ndarray) -> Predictions:
        """uint8 [N, S, S, 3], RGB, of any number of images."""
        chunks = list(self.predict_batches(self._batches(images)))
        if not chunks:
            return Predictions(np.zeros((0, len(self.class_names)), np.float32), None)
        scores = [c.synthetic_scores for c in chunks]
        return Predictions(
            np.concatenate([c.probabilities for c in chunks]),
            None if scores[0] is None else np.concatenate(scores),
        )

    def features(self, images: np.ndarray, part: str = "classifier") -> np.ndarray:
        """float32 [N, D]: what the encoder of the classifier, or of the detector, makes
        of uint8 images [N, S, S, 3], after pooling."""
        return self._of_part(part, images, features=True)

    def probabilities(self, images: np.ndarray, part: str) -> np.ndarray:
        """float32 [N, classes] of the classifier alone, or of the detector (real,
        synthetic)."""
        return self._of_part(part, images, features=False)

    def _of_part(self, part: str, images: np.ndarray, features: bool) -> np.ndarray:
        own = {part: self.parts[part]}
        chunks = list(self._map(own, self._batches(images), features))
        return np.concatenate([chunk[part] for chunk in chunks])

    def predict_batches(self, batches: Iterable[np.ndarray]) -> Iterator[Predictions]:
        """Predictions of each of a stream of batches, of at most the batch size each;
        the device works on one while the next is read."""
        for found in self._map(self.parts, batches, features=False):
            scores = found.get("detector")
            yield Predictions(
                found["classifier"], None if scores is None else scores[:, 1]
            )

    def _batches(self, images: np.ndarray) -> Iterator[np.ndarray]:
        shape = (self.image_size, self.image_size, 3)
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise ValueError(
                f"images are {images.dtype} {images.shape}; this run takes uint8 "
                f"{('N', *shape)}"
            )
        for start in range(0, len(images), self.batch_size):
            yield images[start : start + self.batch_size]

    def _map(
        self, own: Mapping[str, Part], batches: Iterable[np.ndarray], features: bool
    ) -> Iterator[dict[str, np.ndarray]]:
        program = self._program(tuple(own), features)
        params = {name: part.params for name, part in own.items()}
        under_way: collections.deque = collections.deque()

        def fetched():
            count, out = under_way.popleft()
            return {name: np.asarray(x)[:count] for name, x in out.items()}

        for batch in batches:
            missing = self.batch_size - len(batch)
            padded = np.pad(batch, [(0, missing), (0, 0), (0, 0), (0, 0)])
            placed = jax.device_put(padded, self._device)
            under_way.append((len(batch), program(params, placed)))
            if len(under_way) > _AHEAD:
                yield fetched()
        while under_way:
            yield fetched()

    def _program(self, names: Sequence[str], features: bool) -> Callable:
        key = (names, features)
        if key not in self._programs:
            own = {name: self.parts[name] for name in names}

            def forward(params, images):
                return {
                    name: part.outputs(params[name], images)[0 if features else 1]
                    for name, part in own.items()
                }

            shape = (self.batch_size, self.image_size, self.image_size, 3)
            images = jax.device_put(np.zeros(shape, np.uint8), self._device)
            params = {name: part.params for name, part in own.items()}
            lowered = jax.jit(forward).lower(params, images)
            self._programs[key] = compilation.compiled(lowered, self._device.platform)
        return self._programs[key]


def load(folder: str, step: str = "last", *, batch_size: int = BATCH) -> Model:
    """The model of a run's workdir; raises as `saved.load` does."""
    return Model(saved.load(folder, step), batch_size)
