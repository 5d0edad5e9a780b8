"""What bench peer runs of PyTorch, ready to be timed.

Imports torch, so it is imported late.
"""

import importlib.util
import os
import shutil

import numpy as np
import torch

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import results, timing, workload
from rsmatch_jax.bench.rivals import torch_loader
from rsmatch_jax.bench.rivals.torch_fixmatch import AsInUSB, Batch, Lean, Settings
from rsmatch_jax.data import normalise
from rsmatch_jax.engine.experiment import Experiment

SHARED_MEMORY = "/dev/shm"  # through which workers hand over their batches


def device(platform: str) -> torch.device | None:
    """torch's device for a JAX platform; None where it has none."""
    if platform == "cpu":
        return torch.device("cpu")
    if platform == "gpu" and torch.cuda.is_available():
        return torch.device("cuda")
    return None


class Programs:
    """Steps on one device, all of the same random images. For a GPU cuDNN looks for
    the fastest convolutions."""

    version = torch.__version__

    def __init__(self, exp: Experiment, device: torch.device, num_unlabeled: int):
        """Starts the loader's workers, which make their first batches meanwhile."""
        self._exp, self._device = exp, device
        self._num_unlabeled = num_unlabeled
        torch.manual_seed(exp.config.seed)
        torch.backends.cudnn.benchmark = True
        if device.type == "cpu":
            torch.set_num_threads(results.cores())
        self._settings = Settings.of(exp)
        self._batch = placed(exp, device)
        self._usb = AsInUSB(self._settings, device)
        self.wanted, self.workers = self._count_workers()
        self._stream = None  # opened late: workers disturb others' turns

    @property
    def ahead(self) -> int:
        """Batches that may be ready before anyone asks: of workers and of a pinning
        thread."""
        return torch_loader.PREFETCH * self.workers + 1

    def usb_fixed(self, steps: int):
        """USB's step, its batch on the device already."""
        for _ in range(steps):
            self._usb.step(self._batch)
        self._wait()

    def usb_loader(self, steps: int):
        """USB's step, every batch from the workers."""
        if self._stream is None:
            self._stream = self._open()
        for _ in range(steps):
            self._usb.step(Batch(*next(self._stream)).to(self._device))
        self._wait()

    def lean(self, *, bfloat16: bool) -> tuple[timing.Run, str]:
        """(run, "compiled" or "eager"): compiled on a GPU, where that works; on a CPU
        it would take longer than all the rest."""
        program = Lean(
            self._settings,
            self._device,
            self._batch,
            bfloat16=bfloat16,
            compiled=self._device.type == "cuda",
        )
        if program.why_not is not None:
            why = program.why_not.strip().split("\n", 1)[0]
            terminal.say(f"lean torch stays eager, for torch.compile failed: {why}")

        def run(steps):
            for _ in range(steps):
                program.step()
            self._wait()

        return run, "compiled" if program.compiled else "eager"

    def precision(self, bfloat16: bool) -> str:
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

    def _count_workers(self) -> tuple[int, int]:
        """(workers wanted, how many of them there can be)."""
        wanted = max(1, results.cores() - 2)
        if importlib.util.find_spec("PIL") is None:
            terminal.say("torch's loader: not measured, for there is no Pillow")
            return wanted, 0
        if not os.path.isdir(SHARED_MEMORY):
            return wanted, wanted
        batch = sum(x.numel() * x.element_size() for x in self._batch)
        free = shutil.disk_usage(SHARED_MEMORY).free
        # The batches ahead, and one that each worker is writing.
        fit = int(free // (batch * (torch_loader.PREFETCH + 1)))
        if fit < wanted:
            terminal.say(
                f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB, enough for {fit} of "
                f"{wanted} loader workers: no fair comparison with the loader"
            )
        return wanted, min(wanted, fit)

    def _open(self):
        exp, d = self._exp, self._exp.dims
        images = torch_loader.RandomImages(
            exp.views,
            d.image_shape[0],
            d.num_classes,
            d.num_labeled,
            self._num_unlabeled,
            normalise.normalisation(exp.config.data.name),
            exp.config.seed,
        )
        return torch_loader.stream(
            images,
            d.batch_size,
            d.unlabeled_batch,
            workers=self.workers,
            pinned=self._device.type == "cuda",
            seed=exp.config.seed,
        )


def placed(exp: Experiment, device: torch.device) -> Batch:
    """The batch of noise that our programs get, normalised, on torch's device."""
    batch = workload.random_batch(exp)
    mean, std = (
        np.array(x, np.float32) for x in normalise.normalisation(exp.config.data.name)
    )

    def images(rows):
        normalised = (rows.astype(np.float32) / 255 - mean) / std
        return torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy())

    return Batch(
        images(batch.lab),
        torch.from_numpy(batch.labels.astype(np.int64)),
        images(batch.weak),
        images(batch.strong),
    ).to(device)
