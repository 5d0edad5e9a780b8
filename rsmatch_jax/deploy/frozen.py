"""The trained classifier and detector of a run, for images.

Inference needs only the encoder and the real head (paper, section 4.4). The detector
runs beside them if the run has one.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rsmatch_jax.data.images import alpha, image_files
from rsmatch_jax.data.images.compression import Jpeg
from rsmatch_jax.deploy import saved
from rsmatch_jax.engine import experiment
from rsmatch_jax.errors import RequestError
from rsmatch_jax.models import networks
from rsmatch_jax.models.networks import Network
from rsmatch_jax.progress import busy
from rsmatch_jax.runtime import compilation
from rsmatch_jax.runtime.ahead import ahead
from rsmatch_jax.state import PyTree

BATCH = 256
_AHEAD = 2  # batches in flight beside the one in use
_FEATURES, _PROBABILITIES = 0, 1  # places in the output of `Part.outputs`


class Predictions(NamedTuple):
    """Predictions for N images. probabilities: float32 [N, K], of the real head.
    synthetic_scores: float32 [N] in [0, 1] (Eq. 1), None if the run has no detector."""

    probabilities: np.ndarray
    synthetic_scores: np.ndarray | None

    @property
    def labels(self) -> np.ndarray:
        """The most probable class, int64 [N]."""
        return self.probabilities.argmax(axis=1)


@dataclasses.dataclass(frozen=True)
class Part:
    """One network reduced to its encoder and the heads of one answer. params: EMA
    parameters. stats: live running statistics, as in evaluations without
    eval.real_bn."""

    name: str
    classes: int
    # From the heads' logits, by head, to those of the answer, [n, classes].
    logits: Callable[[Mapping[str, jax.Array]], Any]
    net: Network
    params: PyTree
    stats: PyTree

    def outputs(
        self, variables: tuple[PyTree, PyTree], images: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Maps uint8 [n, S, S, 3] to float32 (features [n, D], probabilities).
        variables: an argument, so that a program does not hold them as constants."""
        outputs, _ = self.net.apply(*variables, images, False)
        return outputs.features, jax.nn.softmax(self.logits(outputs.logits))


def parts(run: saved.Saved) -> dict[str, Part]:
    """Returns "classifier" and, if any, "detector", on the run's first device."""
    state, reduced = run.state, {}
    assert state is not None
    method, classes = run.exp.method, run.exp.dims.num_classes
    answers = {
        "classifier": (classes, operator.itemgetter("real")),
        "detector": (2, method.origin),
    }
    for part, (network, heads) in method.parts(classes).items():
        net = experiment.network(run.exp.config, network, heads, run.dataset)
        params = networks.reduced(state.ema[network], heads)
        on_device = jax.device_put((params, state.stats[network]), run.exp.devices[0])
        reduced[part] = Part(part, *answers[part], net, *on_device)
    return reduced


class Model:
    """A trained run that classifies images: EMA weights of the encoder, the real head
    and the detector, if any, on the first local device.

    class_names: K names in the order of labels. image_size: S, the side in pixels of
    the training images. central: `read` keeps only the central part of an image, as the
    evaluation of runs with data.image_size does. step: of the checkpoint. run: without
    its state, whose queue and momenta are many times larger than the parts.
    """

    def __init__(self, run: saved.Saved, batch_size: int = BATCH):
        """Takes up to `batch_size` images at a time; RequestError if it is below 1."""
        if batch_size < 1:
            raise RequestError(f"batch_size={batch_size}: it must be 1 or more")
        self.step = run.step
        self.class_names = run.class_names
        self.image_size = run.exp.dims.image_shape[0]
        self._shape = (self.image_size, self.image_size, 3)
        self.central = run.exp.config.data.image_size is not None
        self.parts = parts(run)
        self.run = dataclasses.replace(run, state=None)
        self.batch_size = batch_size
        self._device = run.exp.devices[0]
        self._programs: dict[Any, Callable] = {}

    def open(
        self,
        paths: Sequence[str],
        rows: int | None = None,
        background: str = alpha.BACKGROUND,
        stored_as: Sequence[Jpeg | None] = (),
    ) -> Iterator[list[image_files.Loaded]]:
        """Yields image files at the size of training, `rows` (batch_size) at a time.
        background, stored_as: see `image_files.load`."""
        return image_files.batches(
            paths,
            self.image_size,
            rows or self.batch_size,
            central=self.central,
            background=background,
            stored_as=stored_as,
        )

    def read(self, paths: Sequence[str]) -> np.ndarray:
        """Returns image files of any kind and size as uint8 [N, S, S, 3]. RequestError
        names the first file that cannot be read."""
        pixels = []
        for image in itertools.chain.from_iterable(self.open(paths)):
            if image.pixels is None:
                raise RequestError(f"{image.path}: {image.reason}")
            pixels.append(image.pixels)
        return np.asarray(pixels, np.uint8).reshape(-1, *self._shape)

    def predict(self, images: np.ndarray) -> Predictions:
        """Returns class probabilities and synthetic scores of RGB images. images: uint8
        [N, S, S, 3], any N; RequestError if dtype or shape differ."""
        return _predictions(self._all(images, self.parts, _PROBABILITIES))

    def features(self, images: np.ndarray, part: str = "classifier") -> np.ndarray:
        """Returns the pooled features of an encoder, float32 [N, D]. images: as in
        `predict`. part: classifier or detector; RequestError if the run has none."""
        return self._all(images, self._only(part), _FEATURES)[part]

    def probabilities(self, images: np.ndarray, part: str = "classifier") -> np.ndarray:
        """As `features`, float32 [N, classes]; the detector's: real and synthetic."""
        return self._all(images, self._only(part), _PROBABILITIES)[part]

    def predict_batches(
        self, batches: Iterable[np.ndarray], rows: int | None = None
    ) -> Iterator[Predictions]:
        """Yields the predictions of each batch while the device works on the next ones.

        batches: uint8 [n, S, S, 3]; RequestError if n exceeds rows. rows: the program's
        batch size, to which batches are padded; None means the model's.
        """
        rows = rows or self.batch_size
        for outputs in self._each(batches, rows, self.parts, _PROBABILITIES):
            yield _predictions(outputs)

    def _only(self, part: str) -> dict[str, Part]:
        if part not in self.parts:
            others = ", ".join(self.parts)
            raise RequestError(f"this run has no {part}; it has {others}")
        return {part: self.parts[part]}

    def _all(
        self, images: np.ndarray, parts: Mapping[str, Part], kind: int
    ) -> dict[str, np.ndarray]:
        """An output of each part for one array of images."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self._shape:
            raise RequestError(
                f"images are {images.dtype} {images.shape}; this run takes uint8 "
                f"{('N', *self._shape)}, RGB from 0 to 255; read(paths) makes them "
                "from files"
            )
        # A power of two: few images are not padded to a batch, and few programs made.
        rows = min(self.batch_size, 1 << max(len(images) - 1, 0).bit_length())
        starts = range(0, max(len(images), 1), rows)  # one empty batch if no image
        batches = (images[start : start + rows] for start in starts)
        chunks = list(self._each(batches, rows, parts, kind))
        return {name: np.concatenate([c[name] for c in chunks]) for name in parts}

    def _each(
        self,
        batches: Iterable[np.ndarray],
        rows: int,
        parts: Mapping[str, Part],
        kind: int,
    ) -> Iterator[dict[str, np.ndarray]]:
        """An output of each part for each batch."""
        program = self.program(parts, rows)

        def dispatched():
            for batch in batches:
                count = len(batch)
                if count > rows:
                    raise RequestError(
                        f"a batch of {count} images is larger than the batch size "
                        f"{rows}; use smaller ones, or a larger batch_size"
                    )
                if count < rows:
                    batch = np.pad(batch, [(0, rows - count), (0, 0), (0, 0), (0, 0)])
                yield count, program(jax.device_put(batch, self._device))

        for count, outputs in ahead(dispatched(), _AHEAD):
            yield {name: np.asarray(x[kind])[:count] for name, x in outputs.items()}

    def program(self, parts: Mapping[str, Part], rows: int) -> Callable:
        """Returns uint8 [rows, S, S, 3] -> {name: outputs}, compiled once."""
        key = (tuple(parts), rows)
        if key not in self._programs:
            variables = {k: (p.params, p.stats) for k, p in parts.items()}

            def forward(variables, images):
                return {k: p.outputs(variables[k], images) for k, p in parts.items()}

            zeros = np.zeros((rows, *self._shape), np.uint8)
            images = jax.device_put(zeros, self._device)
            with busy("compiling the networks"):
                lowered = jax.jit(forward).lower(variables, images)
                compiled = compilation.compiled(lowered, self._device.platform)
            self._programs[key] = functools.partial(compiled, variables)
        return self._programs[key]


def _predictions(probabilities: Mapping[str, np.ndarray]) -> Predictions:
    scores = probabilities.get("detector")
    synthetic = None if scores is None else scores[:, 1]
    return Predictions(probabilities["classifier"], synthetic)


def load(
    workdir: str,
    step: str | int = "last",
    *,
    batch_size: int = BATCH,
    trust_code: bool = False,
) -> Model:
    """Returns the trained model of a run, on the first local device. The run's data may
    be gone. batch_size: most images at a time.

    step, trust_code and errors are those of `saved.load`: RequestError is a ValueError,
    RunFailed a RuntimeError.
    """
    return Model(saved.load(workdir, step, trust_code=trust_code), batch_size)
