"""Batches as PyTorch code bases make them: Pillow views by worker processes.

Imports torch; import it lazily. Does not import JAX, because workers import this file.
"""

import functools
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils import data

from rsmatch_jax.augment.views import ViewSpec
from rsmatch_jax.bench.rivals.pillow_views import PillowViews

PREFETCH = 2  # batches that a worker prepares: PyTorch's default
Triple = tuple[float, float, float]


class RandomImages(data.Dataset):
    """Images of noise; every process draws the same ones.

    Items below `num_labeled` are (weak view, label), the others (weak, strong). Views
    are normalised as by torchvision: float32 [3, S, S].
    """

    def __init__(
        self,
        spec: ViewSpec,
        size: int,
        num_classes: int,
        num_labeled: int,
        num_unlabeled: int,
        normalisation: tuple[Triple, Triple],
        seed: int,
    ):
        self.num_labeled, self.num_unlabeled = num_labeled, num_unlabeled
        self._spec, self._size, self._seed = spec, size, seed
        self._num_classes = num_classes
        mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in normalisation)
        self._mean, self._std = mean, std
        self._views = None  # holds modules, which cannot be sent to workers

    def __len__(self) -> int:
        return self.num_labeled + self.num_unlabeled

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor | int]:
        if self._views is None:
            self._open()
        weak = self._view(index, strong=False)
        if index < self.num_labeled:
            return weak, int(self.labels[index])
        return weak, self._view(index, strong=True)

    def _open(self):
        """Draws the images, in the process that makes the views."""
        info = data.get_worker_info()
        worker = 0 if info is None else info.id
        self._random = random.Random(f"{self._seed} {worker}")
        rng, shape = np.random.default_rng(self._seed), (self._size, self._size, 3)
        self.labels = rng.integers(0, self._num_classes, self.num_labeled)
        self.images = rng.integers(0, 256, (len(self), *shape), dtype=np.uint8)
        self._views = PillowViews(self._spec)

    def _view(self, index: int, strong: bool) -> torch.Tensor:
        numbers = self._views.draw(self._random, self._size, strong)
        view = self._views.view(self.images[index], numbers)
        image = torch.tensor(view).permute(2, 0, 1).contiguous()
        return image.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)


class RandomRows(data.Sampler):
    """Endless batches of `batch` labelled positions, then `unlabeled` others."""

    def __init__(self, images: RandomImages, batch: int, unlabeled: int, seed: int):
        self._images, self._sizes, self._seed = images, (batch, unlabeled), seed

    def __iter__(self) -> Iterator[list[int]]:
        rng, first = np.random.default_rng(self._seed), self._images.num_labeled
        batch, unlabeled = self._sizes
        while True:
            lab = rng.integers(0, first, batch)
            unl = rng.integers(first, len(self._images), unlabeled)
            yield [*lab.tolist(), *unl.tolist()]


def collate(
    batch: int, items: Sequence[tuple]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """lab, labels, weak and strong of items; the first `batch` are labelled."""
    lab, labels = zip(*items[:batch], strict=True)
    weak, strong = zip(*items[batch:], strict=True)
    stack = torch.stack
    return stack(lab), torch.tensor(labels), stack(weak), stack(strong)


def stream(
    images: RandomImages,
    batch: int,
    unlabeled: int,
    *,
    workers: int,
    pinned: bool,
    seed: int = 0,
) -> Iterator:
    """Endless batches of `collate`; the workers start at once and end with the stream.

    Every worker makes labelled and unlabelled rows; USB has a loader for each.
    """
    loader = data.DataLoader(
        images,
        batch_sampler=RandomRows(images, batch, unlabeled, seed),
        collate_fn=functools.partial(collate, batch),
        num_workers=workers,
        prefetch_factor=PREFETCH,
        persistent_workers=True,
        pin_memory=pinned,
        # Not fork: the child would lack JAX's threads.
        multiprocessing_context="spawn",
    )
    return iter(loader)
