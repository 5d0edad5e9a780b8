"""The programs in PyTorch that bench peer times. Imports torch; import it lazily."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from rsmatch_jax import terminal
from rsmatch_jax.bench.harness import timing, workload
from rsmatch_jax.bench.peer import LEAN, USB, USB_LOADER, Contender
from rsmatch_jax.bench.rivals import torch_loader
from rsmatch_jax.bench.rivals.torch_fixmatch import AsInUSB, Batch, Lean
from rsmatch_jax.data import normalise
from rsmatch_jax.engine.experiment import Experiment
from rsmatch_jax.runtime import cores

SHARED_MEMORY = "/dev/shm"  # workers pass their batches through it


def contenders(exp: Experiment, partners: Sequence[str]) -> list[Contender]:
    """PyTorch's steps on a fixed batch; and with USB's loader, if workers can run.
    None, and a line with the reason, if PyTorch lacks the device.

    partners: JAX's rows on a fixed batch, the last of these in lean torch's precision,
    and with input. On a GPU cuDNN searches for the fastest convolutions, and lean torch
    is compiled if that works. On a CPU compiling would take longer than the other rows.
    """
    platform = exp.devices[0].platform
    on_gpu = platform == "gpu" and torch.cuda.is_available()
    if platform != "cpu" and not on_gpu:
        terminal.say(f"PyTorch: not measured because it sees no {platform}")
        return []
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.manual_seed(exp.config.seed)
    torch.backends.cudnn.benchmark = True
    if not on_gpu:
        torch.set_num_threads(cores.count())

    def repeated(step: Callable[[], Any]) -> timing.Run:
        def run(steps):
            for _ in range(steps):
                step()
            if on_gpu:
                torch.cuda.synchronize()

        return run

    batch = placed(exp, device)
    usb = AsInUSB(exp, device)
    lean = Lean(exp, batch, bfloat16=on_gpu, compiled=on_gpu)
    if lean.failure:
        terminal.say(
            f"lean torch stays eager because torch.compile failed: {lean.failure}"
        )
    tf32 = on_gpu and torch.backends.cudnn.allow_tf32
    precision = "float32 (TF32 convolutions)" if tf32 else "float32"
    lean_precision = "bfloat16 (autocast)" if on_gpu else precision
    fixed = repeated(lambda: usb.step(batch))
    result = [
        Contender(USB, precision, "eager", fixed, partners[0]),
        Contender(LEAN, lean_precision, lean.form, repeated(lean.step), partners[-2]),
    ]
    needed = max(1, cores.count() - 2)
    workers = _count_workers(batch, needed)
    stream = _stream(exp, workers, pinned=on_gpu)

    def load_and_step():
        usb.step(Batch(*next(stream)).to(device))

    if workers:
        # Batches that workers and the pinning thread prepare.
        counts = (workers, needed, torch_loader.PREFETCH * workers + 1)
        run = repeated(load_and_step)
        loaded = Contender(USB_LOADER, precision, "eager", run, partners[-1], *counts)
        result.append(loaded)
    return result


def _stream(exp: Experiment, workers: int, *, pinned: bool) -> Iterator:
    """The loader's batches. Workers start with the first: they disturb others."""
    task, d = workload.random_task(exp), exp.dims
    batches = torch_loader.Batches(
        *(exp.views, np.asarray(task.lab_images), task.lab_labels),
        *(np.asarray(task.unl_images), d.batch_size, d.unlabeled_batch),
        normalisation=normalise.normalisation(exp.config.data.name),
        seed=exp.config.seed,
    )
    yield from torch_loader.stream(batches, workers=workers, pinned=pinned)


def _count_workers(batch: Batch, needed: int) -> int:
    """Number of loader workers that can run, at most `needed`."""
    if importlib.util.find_spec("PIL") is None:
        terminal.say("torch's loader: not measured because there is no Pillow")
        return 0
    if not os.path.isdir(SHARED_MEMORY):
        return needed
    num_bytes = sum(x.numel() * x.element_size() for x in batch)
    free = shutil.disk_usage(SHARED_MEMORY).free
    # The prepared batches, and one that each worker is writing.
    fit = int(free // (num_bytes * (torch_loader.PREFETCH + 1)))
    if fit < needed:
        terminal.say(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB, enough for {fit} of {needed} "
            "loader workers: no fair comparison with the loader"
        )
    return min(needed, fit)


def placed(exp: Experiment, device: torch.device) -> Batch:
    """JAX's batch of noise, normalised, on torch's device."""
    batch = workload.random_batch(exp)
    mean, std = np.array(normalise.normalisation(exp.config.data.name), np.float32)

    def images(rows):
        normalised = (rows.astype(np.float32) / 255 - mean) / std
        return torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy())

    labels = torch.from_numpy(batch.labels.astype(np.int64))
    weak, strong = images(batch.weak), images(batch.strong)
    return Batch(images(batch.lab), labels, weak, strong).to(device)
