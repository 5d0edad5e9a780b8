"""The programs in PyTorch that bench peer times. Imports torch; import it lazily."""

import importlib.util
import os
import shutil

import numpy as np
import torch

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import machine, timing, workload
from rsmatch_jax.bench.rivals import torch_loader
from rsmatch_jax.bench.rivals.torch_fixmatch import AsInUSB, Batch, Lean
from rsmatch_jax.data import normalise
from rsmatch_jax.engine.experiment import Experiment

SHARED_MEMORY = "/dev/shm"  # workers pass their batches through it


def device(platform: str) -> torch.device | None:
    """torch's device for a JAX platform; None if torch has none."""
    if platform == "cpu":
        return torch.device("cpu")
    if platform == "gpu" and torch.cuda.is_available():
        return torch.device("cuda")
    return None


class Programs:
    """Steps on one device, with the same random images.

    needed: the number of loader workers that a fair comparison needs. workers: how
    many can run. On a GPU cuDNN searches for the fastest convolutions.
    """

    def __init__(self, exp: Experiment, device: torch.device):
        self._exp, self._device = exp, device
        torch.manual_seed(exp.config.seed)
        torch.backends.cudnn.benchmark = True
        if device.type == "cpu":
            torch.set_num_threads(machine.cores())
        self._batch = placed(exp, device)
        self._usb = AsInUSB(exp, device)
        self.needed = max(1, machine.cores() - 2)
        self.workers = self._count_workers()
        self._stream = None  # opened late: workers disturb other programs

    @property
    def ahead(self) -> int:
        """Batches that workers and the pinning thread prepare in advance."""
        return torch_loader.PREFETCH * self.workers + 1

    def usb_fixed(self, steps: int):
        """USB's step on a batch that lies on the device."""
        for _ in range(steps):
            self._usb.step(self._batch)
        self._wait()

    def usb_loader(self, steps: int):
        """USB's step; every batch comes from the workers."""
        if self._stream is None:
            exp, d = self._exp, self._exp.dims
            batches = torch_loader.RandomBatches(
                spec=exp.views,
                size=d.image_shape[0],
                num_classes=d.num_classes,
                num_labeled=d.num_labeled,
                num_unlabeled=d.num_unlabeled,
                batch=d.batch_size,
                unlabeled_batch=d.unlabeled_batch,
                normalisation=normalise.normalisation(exp.config.data.name),
                seed=exp.config.seed,
            )
            pinned = self._device.type == "cuda"
            self._stream = torch_loader.stream(
                batches, workers=self.workers, pinned=pinned
            )
        for _ in range(steps):
            self._usb.step(Batch(*next(self._stream)).to(self._device))
        self._wait()

    def lean(self, *, bfloat16: bool) -> tuple[timing.Run, str]:
        """(run, "compiled" or "eager").

        Compiled on a GPU, if that works. On a CPU compiling would take longer than the
        rest of the bench.
        """
        options = {"bfloat16": bfloat16, "compiled": self._device.type == "cuda"}
        program = Lean(self._exp, self._device, self._batch, **options)
        if program.why_not is not None:
            why = program.why_not.strip().split("\n", 1)[0]
            terminal.say(f"lean torch stays eager because torch.compile failed: {why}")

        def run(steps):
            for _ in range(steps):
                program.step()
            self._wait()

        return run, "compiled" if program.compiled else "eager"

    def precision(self, bfloat16: bool) -> str:
        """The precision of the matrix products, for a row."""
        if bfloat16:
            return "bfloat16 (autocast)"
        tf32 = self._device.type == "cuda" and torch.backends.cudnn.allow_tf32
        return "float32 (TF32 convolutions)" if tf32 else "float32"

    def close(self):
        """Ends the workers."""
        self._stream = None

    def _wait(self):
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _count_workers(self) -> int:
        if importlib.util.find_spec("PIL") is None:
            terminal.say("torch's loader: not measured because there is no Pillow")
            return 0
        if not os.path.isdir(SHARED_MEMORY):
            return self.needed
        batch = sum(x.numel() * x.element_size() for x in self._batch)
        free = shutil.disk_usage(SHARED_MEMORY).free
        # The prepared batches, and one that each worker is writing.
        fit = int(free // (batch * (torch_loader.PREFETCH + 1)))
        if fit < self.needed:
            terminal.say(
                f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB, enough for {fit} of "
                f"{self.needed} loader workers: no fair comparison with the loader"
            )
        return min(self.needed, fit)


def placed(exp: Experiment, device: torch.device) -> Batch:
    """JAX's batch of noise, normalised, on torch's device."""
    batch = workload.random_batch(exp)
    mean, std = np.float32(normalise.normalisation(exp.config.data.name))

    def images(rows):
        normalised = (rows.astype(np.float32) / 255 - mean) / std
        return torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy())

    labels = torch.from_numpy(batch.labels.astype(np.int64))
    weak, strong = images(batch.weak), images(batch.strong)
    return Batch(images(batch.lab), labels, weak, strong).to(device)
