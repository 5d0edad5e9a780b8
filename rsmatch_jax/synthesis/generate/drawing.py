"""Loads a text-to-image model and draws pictures with it.

torch and diffusers are optional, so they are imported late.
"""

import contextlib
import dataclasses
import errno
import importlib.metadata
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rsmatch_jax.errors import RequestError, RunFailed, one_line
from rsmatch_jax.synthesis.generate import glide
from rsmatch_jax.synthesis.generate.pipelines import Generator

# Reasons why a picture is dropped.
SAFETY = "safety checker"
NO_NUMBERS = "no numbers (NaN)"


@dataclasses.dataclass(frozen=True)
class Drawer:
    """A loaded model.

    draw(prompts, seeds): uint8 [H, W, 3] or the reason for dropping it, per picture,
    whose noise depends on its seed alone. native_size: pixels a side. settings: what
    the pictures depend on besides the flags. environment: versions and device.
    """

    draw: Callable[[Sequence[str], Sequence[int]], Sequence[np.ndarray | str]]
    native_size: int
    settings: Mapping[str, Any]
    environment: Mapping[str, str]


def choose_device(device: str | None) -> str:
    """Returns `cuda` or `cpu`; None is the GPU if there is one. Imports torch."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RequestError("--device=cuda: torch sees no GPU; use --device=cpu")
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def precision_on(device: str) -> str:
    return "float16" if device == "cuda" else "float32"


def load(generator: Generator, device: str) -> Drawer:
    """Loads the weights from a folder or the hub; float16 on a GPU, else float32."""
    import torch

    is_glide = "glide_text2im" in generator.packages
    try:
        drawer = (_load_glide if is_glide else _load_diffusers)(generator, device)
    except RequestError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as e:
        raise RunFailed(f"{generator.name} does not fit the memory of {device}") from e
    except Exception as e:
        if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # a download filled the disk
        # The hub, diffusers and torch raise errors of any type here.
        way_out = "give another folder"
        if not generator.local:
            way_out = "if offline, download it elsewhere and pass --model_dir"
            way_out += " and --unet" if generator.unet else ""
        raise RequestError(
            f"--generator={generator.name}: {generator.model} cannot be loaded as a "
            f"model ({one_line(e, 300)}); {way_out}"
        ) from e

    def draw(prompts: Sequence[str], seeds: Sequence[int]):
        try:
            return drawer.draw(prompts, seeds)
        except (MemoryError, torch.OutOfMemoryError) as e:
            raise RunFailed(
                f"{len(prompts)} pictures at once do not fit the memory of {device}; "
                "lower --batch_size (staged pictures keep their batch size: give "
                "another --name or --out then)"
            ) from e

    return dataclasses.replace(drawer, draw=draw)


def _load_glide(generator: Generator, device: str) -> Drawer:
    assert generator.steps and generator.guidance is not None  # as in pipelines.GLIDE
    folder = generator.model if generator.local else None
    draw = glide.load(folder, generator.steps, generator.guidance, device)
    settings = {
        "pipeline": "glide_text2im",
        "steps": generator.steps,
        "guidance": generator.guidance,
        "upsampler": f"{glide.RESPACING_UP}, DDIM, temperature {glide.TEMPERATURE_UP}",
    }
    environment = _environment(("torch", "glide-text2im", "Pillow"), device)
    return Drawer(draw, glide.SIZE, settings, environment)


def _load_diffusers(generator: Generator, device: str) -> Drawer:
    import torch
    import transformers.utils.logging

    transformers.utils.logging.disable_progress_bar()
    # Otherwise the import of diffusers prints which backends are missing.
    transformers.utils.logging.set_verbosity_error()
    import diffusers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    # Otherwise it warns of every flagged picture that it is replaced by a black one.
    diffusers.utils.logging.set_verbosity_error()
    precision = getattr(torch, precision_on(device))
    with warnings.catch_warnings():
        # Newer versions rename torch_dtype to dtype, which older ones do not accept.
        warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
        pipe = _pipeline(generator, precision)
    pipe.set_progress_bar_config(disable=True)
    pipe = pipe.to(device, precision)
    if hasattr(getattr(pipe, "vae", None), "enable_slicing"):
        pipe.vae.enable_slicing()  # decodes one by one, which needs far less memory
    if generator.safety_checker and getattr(pipe, "safety_checker", None) is None:
        raise RequestError(
            f"{generator.model} has no safety checker but {generator.name} needs one; "
            "to draw without, pass the folder itself as --generator"
        )
    arguments = _arguments(generator, pipe)
    size = _native_size(generator, pipe)

    def draw(prompts: Sequence[str], seeds: Sequence[int]):
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        output = pipe(
            prompt=list(prompts), generator=generators, output_type="np", **arguments
        )
        flagged = getattr(output, "nsfw_content_detected", None)
        flagged = flagged or [False] * len(prompts)
        return [
            SAFETY if bad else _to_uint8(image, size)
            for image, bad in zip(output.images, flagged, strict=True)
        ]

    settings = {
        "pipeline": type(pipe).__name__,
        "scheduler": type(pipe.scheduler).__name__,
        "steps": arguments.get("num_inference_steps"),
        "guidance": arguments.get("guidance_scale"),
        "safety_checker": getattr(pipe, "safety_checker", None) is not None,
    }
    packages = ("torch", "diffusers", "transformers", "Pillow")
    return Drawer(draw, size, settings, _environment(packages, device))


def _pipeline(generator: Generator, precision):
    """Loads the pipeline with its weights."""
    import diffusers

    where: dict[str, Any] = {"revision": generator.revision}
    if generator.local:
        where = {"local_files_only": True}
    weights = {"torch_dtype": precision, **where}
    if not generator.local and str(precision).endswith("float16"):
        weights["variant"] = "fp16"  # smaller files on the hub
    if generator.unet is None:
        return diffusers.DiffusionPipeline.from_pretrained(generator.model, **weights)
    from huggingface_hub import hf_hub_download
    from safetensors.torch import load_file

    network = diffusers.UNet2DConditionModel
    config = network.load_config(generator.model, subfolder="unet", **where)
    unet = network.from_config(config).to(precision)
    path = generator.unet
    if not isinstance(path, str):
        hub, revision, file = path
        path = hf_hub_download(hub, file, revision=revision)
    unet.load_state_dict(load_file(path))
    # A watermark would mark the pictures, and depends on the installed packages.
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
        generator.model, unet=unet, add_watermarker=False, **weights
    )
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing"
    )
    return pipe


def _arguments(generator: Generator, pipe) -> dict[str, Any]:
    """Returns the steps and guidance that the pipeline takes: flags or defaults."""
    parameters = inspect.signature(pipe.__call__).parameters
    absent = {"prompt", "generator", "output_type"} - set(parameters)
    needed = {"image", "mask_image", "video"} & set(parameters)
    if absent or needed:
        raise RequestError(
            f"{generator.model} is a {type(pipe).__name__}, no text-to-image model"
        )
    arguments = {}
    for key, flag, value in (
        ("num_inference_steps", "--steps", generator.steps),
        ("guidance_scale", "--guidance", generator.guidance),
    ):
        if key in parameters:
            arguments[key] = parameters[key].default if value is None else value
        elif value is not None:
            raise RequestError(f"{flag}={value}: {type(pipe).__name__} has no {key}")
    return arguments


def _native_size(generator: Generator, pipe) -> int:
    """Returns the pixels a side that the pipeline draws by default."""
    network = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    sample = getattr(pipe, "default_sample_size", None)
    sample = sample or getattr(getattr(network, "config", None), "sample_size", None)
    factor = getattr(pipe, "vae_scale_factor", None)
    if type(sample) is not int or type(factor) is not int:
        raise RequestError(
            f"{generator.model}: {type(pipe).__name__} does not say what size it draws"
        )
    return sample * factor


def _to_uint8(image: np.ndarray, size: int) -> np.ndarray | str:
    """Converts float [size, size, 3] in [0, 1]; NO_NUMBERS if it is not finite."""
    if image.shape != (size, size, 3):
        raise RunFailed(
            f"the model drew an array of {image.shape}, no colour picture of the "
            f"{size} pixels a side that its config names"
        )
    if not np.isfinite(image).all():
        return NO_NUMBERS  # float16 may overflow, and would again with this seed
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _environment(packages: Sequence[str], device: str) -> dict[str, str]:
    import torch

    environment = dict.fromkeys(packages, "unknown")
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            environment[package] = importlib.metadata.version(package)
    environment["device"] = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return environment
