"""Batches as PyTorch code bases make them: Pillow views by worker processes.

Imports torch; import it lazily. Does not import JAX, because workers import this file.
"""

import dataclasses
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils import data

from rsmatch_jax.augment.views import ViewSpec

PREFETCH = 2  # batches that a worker prepares: PyTorch's default
Triple = tuple[float, float, float]


@dataclasses.dataclass(eq=False)
class RandomBatches(data.IterableDataset):
    """Endless batches of views of noise images, which are the same in every process.

    A batch is lab float32 [batch, 3, S, S], labels int64 [batch], weak and strong
    float32 [unlabeled_batch, 3, S, S]. Views are normalised as by torchvision.
    """

    spec: ViewSpec
    size: int
    num_classes: int
    num_labeled: int
    num_unlabeled: int
    batch: int
    unlabeled_batch: int
    normalisation: tuple[Triple, Triple]  # mean and standard deviation
    seed: int = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        from rsmatch_jax.bench.rivals.pillow_views import PillowViews  # lazy: Pillow

        images, labels = self.draw()
        views = PillowViews(self.spec)
        info = data.get_worker_info()
        rng = random.Random(f"{self.seed} {0 if info is None else info.id}")
        mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in self.normalisation)

        def view(index, strong):
            pixels = views.view(images[index], views.draw(rng, self.size, strong))
            image = torch.tensor(pixels).permute(2, 0, 1).contiguous()
            return image.to(torch.float32).div_(255).sub_(mean).div_(std)

        while True:
            lab = rng.choices(range(self.num_labeled), k=self.batch)
            rows = range(self.num_labeled, len(images))
            unl = rng.choices(rows, k=self.unlabeled_batch)
            pairs = [(view(i, False), view(i, True)) for i in unl]
            weak, strong = map(torch.stack, zip(*pairs, strict=True))
            views_of_lab = torch.stack([view(i, False) for i in lab])
            yield views_of_lab, torch.tensor(labels[lab]), weak, strong

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """All images, the labelled ones first, and the labels of these."""
        rng, count = np.random.default_rng(self.seed), self.num_labeled
        labels = rng.integers(0, self.num_classes, count)
        shape = (count + self.num_unlabeled, self.size, self.size, 3)
        return rng.integers(0, 256, shape, dtype=np.uint8), labels


def stream(batches: RandomBatches, *, workers: int, pinned: bool) -> Iterator:
    """The batches of all workers, which start at once and end with the stream.

    Every worker makes labelled and unlabelled rows; USB has a loader for each.
    """
    loader = data.DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=PREFETCH,
        persistent_workers=True,
        pin_memory=pinned,
        # Not fork: the child would lack JAX's threads.
        multiprocessing_context="spawn",
    )
    return iter(loader)
