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

from rsmatch_jax.data import normalise
from rsmatch_jax.data.images import image_files
from rsmatch_jax.deploy import saved
from rsmatch_jax.errors import RequestError
from rsmatch_jax.models import networks, uint8
from rsmatch_jax.models.networks import Network
from rsmatch_jax.runtime import compilation
from rsmatch_jax.state import PyTree

BATCH = 256
_AHEAD = 2  # batches under way at most


class Predictions(NamedTuple):
    """Of N images: probabilities float32 [N, K] of the real head; synthetic_scores
    float32 [N] in [0, 1] (Eq. 1), None where the run has no detector."""

    probabilities: np.ndarray
    synthetic_scores: np.ndarray | None

    @property
    def labels(self) -> np.ndarray:
        """int64 [N], the most probable class."""
        return self.probabilities.argmax(axis=1)


@dataclasses.dataclass(frozen=True)
class Part:
    """One network cut down to what inference needs: its encoder and one head.

    params, stats: EMA parameters and live running statistics, of these alone, as in
    every evaluation.
    """

    name: str
    head: str
    classes: int
    net: Network
    params: PyTree
    stats: PyTree

    @property
    def variables(self) -> tuple[PyTree, PyTree]:
        return self.params, self.stats

    def outputs(
        self, variables: tuple[PyTree, PyTree], images: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """uint8 [n, S, S, 3] -> features [n, D], probabilities [n, classes], float32.

        variables: the part's own, handed in so that they are no constants of a program.
        """
        found, _ = self.net.apply(*variables, images, False)
        return found.features, jax.nn.softmax(found.logits[self.head])


def parts(run: saved.Saved) -> dict[str, Part]:
    """ "classifier" with its real head, and where there is one the "detector", on the
    first of the run's devices."""
    heads = run.exp.method.inference_heads(run.exp.dims.num_classes)
    found = {}
    for part, head in (("classifier", "real"), ("detector", "detector")):
        for network, own in heads.items():
            if head in own:
                found[part] = _cut(run, part, network, head, own[head])
    return found


def _cut(run: saved.Saved, part: str, network: str, head: str, classes: int) -> Part:
    model = run.exp.config.model
    mean, std = normalise.normalisation(run.dataset)
    net = networks.make(
        model.classifier if network == "classifier" else model.detector,
        {head: classes},
        dtype=jnp.dtype(model.dtype),
        preact=model.wrn_preact,
    )
    shadow = run.state.ema[network]
    params = {"encoder": shadow["encoder"], "heads": {head: shadow["heads"][head]}}
    params, stats = jax.device_put(
        (params, run.state.stats[network]), run.exp.devices[0]
    )
    return Part(
        name=part,
        head=head,
        classes=classes,
        net=uint8.take_uint8(net, mean, std),
        params=params,
        stats=stats,
    )


class Model:
    """A trained run that judges images, on the first local device.

    class_names: K names in the order of labels. image_size: S, the side in pixels that
    it was trained at. central: whether `read` shows the central part of images alone,
    as the evaluation of runs with data.image_size does. parts: see `parts`. step: of
    the checkpoint. run: what else was saved, without its state: queue and momenta are
    many times the size of the parts.
    """

    def __init__(self, run: saved.Saved, batch_size: int = BATCH):
        """batch_size: most images at a time. Raises RequestError unless it is 1 or
        more."""
        if batch_size < 1:
            raise RequestError(f"batch_size={batch_size}: it must be 1 or more")
        self.step = run.step
        self.class_names = run.class_names
        self.image_size = run.exp.dims.image_shape[0]
        self.central = run.exp.config.data.image_size is not None
        self.parts = parts(run)
        self.run = dataclasses.replace(run, state=None)
        self.batch_size = batch_size
        self._device = run.exp.devices[0]
        self._programs: dict[Any, Callable] = {}

    def read(self, paths: Sequence[str]) -> np.ndarray:
        """uint8 [N, S, S, 3] of image files of any kind and size, brought to the size
        of training as `image_files.load` does. Raises: RequestError naming the first
        that cannot be read."""
        found = []
        for loaded in image_files.batches(
            paths, self.image_size, self.batch_size, central=self.central
        ):
            for image in loaded:
                if image.pixels is None:
                    raise RequestError(f"{image.path}: {image.reason}")
                found.append(image.pixels)
        shape = (0, self.image_size, self.image_size, 3)
        return np.stack(found) if found else np.zeros(shape, np.uint8)

    def predict(self, images: np.ndarray) -> Predictions:
        """Class probabilities and synthetic scores of uint8 images [N, S, S, 3], RGB,
        of any number; see Predictions. Raises RequestError for any other array."""
        images = self._checked(images)
        rows = self._rows(len(images))
        chunks = list(self.predict_batches(_chunks(images, rows), rows))
        scores = [c.synthetic_scores for c in chunks]
        return Predictions(
            np.concatenate([c.probabilities for c in chunks]),
            None if scores[0] is None else np.concatenate(scores),
        )

    def features(self, images: np.ndarray, part: str = "classifier") -> np.ndarray:
        """float32 [N, D]: what the encoder of the classifier, or of the detector, makes
        of uint8 images [N, S, S, 3], after pooling. Raises RequestError for any other
        array, and where the run has no such part."""
        return self._of_part(part, images, features=True)

    def probabilities(self, images: np.ndarray, part: str = "classifier") -> np.ndarray:
        """float32 [N, classes] of the classifier alone, or of the detector (real,
        synthetic). Raises as `features` does."""
        return self._of_part(part, images, features=False)

    def predict_batches(
        self, batches: Iterable[np.ndarray], rows: int | None = None
    ) -> Iterator[Predictions]:
        """Predictions of each of a stream of batches, uint8 [n, S, S, 3], n <= rows;
        the device works on one while the next is read.

        rows: the batch size of the program, to which batches are padded; None = the
        model's. Raises RequestError for a larger one.
        """
        rows = self.batch_size if rows is None else rows
        for found in self._map(self.parts, batches, rows, features=False):
            scores = found.get("detector")
            yield Predictions(
                found["classifier"], None if scores is None else scores[:, 1]
            )

    def _of_part(self, part: str, images: np.ndarray, features: bool) -> np.ndarray:
        if part not in self.parts:
            raise RequestError(
                f"this run has no {part}; it has {', '.join(self.parts)}"
            )
        images = self._checked(images)
        own, rows = {part: self.parts[part]}, self._rows(len(images))
        chunks = self._map(own, _chunks(images, rows), rows, features)
        return np.concatenate([chunk[part] for chunk in chunks])

    def _rows(self, count: int) -> int:
        """Batch size for so many images: few do not pay for many, and not every number
        is a program of its own."""
        return min(self.batch_size, 1 << max(count - 1, 0).bit_length())

    def _checked(self, images: np.ndarray) -> np.ndarray:
        shape = (self.image_size, self.image_size, 3)
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise RequestError(
                f"images are {images.dtype} {images.shape}; this run takes uint8 "
                f"{('N', *shape)}, RGB from 0 to 255; read(paths) makes them of files"
            )
        return images

    def _map(
        self,
        own: Mapping[str, Part],
        batches: Iterable[np.ndarray],
        rows: int,
        features: bool,
    ) -> Iterator[dict[str, np.ndarray]]:
        program = self._program(tuple(own), rows, features)
        variables = {name: part.variables for name, part in own.items()}
        under_way: collections.deque = collections.deque()

        def fetched():
            count, out = under_way.popleft()
            return {name: np.asarray(x)[:count] for name, x in out.items()}

        for batch in batches:
            count = len(batch)
            if count > rows:
                raise RequestError(
                    f"a batch of {count} images is larger than the {rows} at a time "
                    "that were asked for"
                )
            if count < rows:
                batch = np.pad(batch, [(0, rows - count), (0, 0), (0, 0), (0, 0)])
            placed = jax.device_put(batch, self._device)
            under_way.append((count, program(variables, placed)))
            if len(under_way) > _AHEAD:
                yield fetched()
        while under_way:
            yield fetched()

    def _program(self, names: Sequence[str], rows: int, features: bool) -> Callable:
        key = (names, rows, features)
        if key not in self._programs:
            own = {name: self.parts[name] for name in names}

            def forward(variables, images):
                return {
                    name: part.outputs(variables[name], images)[0 if features else 1]
                    for name, part in own.items()
                }

            shape = (rows, self.image_size, self.image_size, 3)
            images = jax.device_put(np.zeros(shape, np.uint8), self._device)
            variables = {name: part.variables for name, part in own.items()}
            lowered = jax.jit(forward).lower(variables, images)
            self._programs[key] = compilation.compiled(lowered, self._device.platform)
        return self._programs[key]


def _chunks(images: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """At least one, if an empty one."""
    for start in range(0, max(len(images), 1), rows):
        yield images[start : start + rows]


def load(workdir: str, step: str = "last", *, batch_size: int = BATCH) -> Model:
    """Returns the trained model of a run, on the first local device.

    It holds the EMA weights of the encoder and the real head, and those of the
    detector if the run has one. The run's data may be gone.

    Args:
        workdir: of the run.
        step: last, best or a saved step's number.
        batch_size: most images at a time.

    Raises:
        RequestError (a ValueError): there is no such run or step, or another method or
            version made it.
        RunFailed (a RuntimeError): the checkpoint is damaged.
    """
    return Model(saved.load(workdir, step), batch_size)
