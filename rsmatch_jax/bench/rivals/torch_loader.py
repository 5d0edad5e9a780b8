"""Batches as PyTorch code bases make them: Pillow views by worker processes.

Imports torch, and not JAX, because the workers import this file.
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
class Batches(data.IterableDataset):
    """Endless batches of views, normalised as by torchvision.

    A batch is lab float32 [batch, 3, S, S], labels int64 [batch], weak and strong
    float32 [unlabeled_batch, 3, S, S].
    """

    spec: ViewSpec
    lab_images: np.ndarray
    labels: np.ndarray
    unl_images: np.ndarray
    batch: int
    unlabeled_batch: int
    normalisation: tuple[Triple, Triple]  # mean and standard deviation
    seed: int = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        from rsmatch_jax.bench.rivals.pillow_views import PillowViews  # lazy: Pillow

        views, labels = PillowViews(self.spec), np.asarray(self.labels, np.int64)
        info = data.get_worker_info()
        rng = random.Random(f"{self.seed} {0 if info is None else info.id}")
        mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in self.normalisation)

        def view(image, strong):
            pixels = views.view(image, views.draw(rng, len(image), strong))
            tensor = torch.tensor(pixels).permute(2, 0, 1).contiguous()
            return tensor.to(torch.float32).div_(255).sub_(mean).div_(std)

        while True:
            lab = rng.choices(range(len(self.lab_images)), k=self.batch)
            unl = rng.choices(range(len(self.unl_images)), k=self.unlabeled_batch)
            images = [self.unl_images[i] for i in unl]
            pairs = [(view(image, False), view(image, True)) for image in images]
            weak, strong = map(torch.stack, zip(*pairs, strict=True))
            views_of_lab = torch.stack([view(self.lab_images[i], False) for i in lab])
            yield views_of_lab, torch.tensor(labels[lab]), weak, strong


def stream(batches: Batches, *, workers: int, pinned: bool) -> Iterator:
    """The batches of all workers, which start at once and end with the stream. Every
    worker makes labelled and unlabelled rows; USB has a loader for each."""
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
