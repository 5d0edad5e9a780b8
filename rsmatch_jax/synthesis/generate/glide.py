"""GLIDE (Nichol et al. 2022, arXiv 2112.10741), the filtered model OpenAI released.

diffusers has no pipeline for it. `pip install git+https://github.com/openai/glide-text2im`
brings the network and its noise schedules. Pictures are drawn as in that package's
text2im notebook: 64 pixels by ancestral sampling with guidance, then 256 by DDIM.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rsmatch_jax.errors import RequestError

RESPACING_UP = "fast27"  # the package's name for the upsampler's 27 steps
TEMPERATURE_UP = 0.997  # scale of the upsampler's noise; 1 is sharper but grainy
SIZE = 256


def load(
    folder: str | None, steps: int, guidance: float, device: str
) -> Callable[[Sequence[str], Sequence[int]], list[np.ndarray]]:
    """Returns draw(prompts, seeds) -> uint8 pictures [256, 256, 3]. folder: holds
    base.pt and upsample.pt; None downloads both for torch.hub."""
    from glide_text2im import model_creation  # lazy: optional, like torch

    half = device == "cuda"

    def build(options: dict[str, Any], respacing: str, name: str):
        options.update(use_fp16=half, timestep_respacing=respacing)
        model, diffusion = model_creation.create_model_and_diffusion(**options)
        model.eval()
        if half:
            model.convert_to_fp16()
        model.to(device)
        model.load_state_dict(_weights(folder, name, device))
        return model, diffusion, options

    defaults = model_creation.model_and_diffusion_defaults()
    base = build(defaults, str(steps), "base")
    defaults = model_creation.model_and_diffusion_defaults_upsampler()
    upsampler = build(defaults, RESPACING_UP, "upsample")
    return functools.partial(_draw, base, upsampler, guidance, device)


def _weights(folder: str | None, name: str, device: str) -> dict[str, Any]:
    import torch
    from glide_text2im import download

    cache = folder or os.path.join(torch.hub.get_dir(), "glide")
    file = f"{name}.pt"
    path = os.path.join(cache, file)
    if os.path.isfile(path):  # the package would contact its host even then
        return torch.load(path, map_location=device, weights_only=True)
    if folder:
        raise RequestError(
            f"--model_dir={folder} has no {file}; GLIDE needs base.pt and "
            f"upsample.pt, from {download.MODEL_PATHS[name]}"
        )
    return download.load_checkpoint(name, device, progress=False, cache_dir=cache)


def _draw(
    base, upsampler, guidance: float, device: str, prompts, seeds
) -> list[np.ndarray]:
    """Draws one batch. Each picture has a random generator for all its noise, so that
    the noise of a prompt does not depend on its batch."""
    import torch

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    def noise(size: int):
        rows = [torch.randn((3, size, size), generator=g) for g in generators]
        return torch.stack(rows).to(device)

    with torch.no_grad():
        small = _draw_base(*base, prompts, noise, guidance, device)
        model, diffusion, options = upsampler
        text = _tokens(model, prompts, options["text_ctx"], device)
        start = noise(options["image_size"]) * TEMPERATURE_UP
        model.del_cache()
        # eta = 0: this loop cannot draw noise per picture.
        large = diffusion.ddim_sample_loop(
            model,
            tuple(start.shape),
            noise=start,
            clip_denoised=True,
            model_kwargs={"low_res": ((small + 1) * 127.5).round() / 127.5 - 1, **text},
            device=device,
            eta=0.0,
        )
        model.del_cache()
    pixels = ((large.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


def _draw_base(model, diffusion, options, prompts, noise, guidance, device):
    """Samples as arXiv 2006.11239, algorithm 2, with the package's mean and variance.

    The package's p_sample_loop would draw the noise of all pictures from one generator.
    noise(size): float32 [n, 3, size, size], new at every call.
    """
    import torch

    count = len(prompts)
    text = _tokens(model, [*prompts, *[None] * count], options["text_ctx"], device)

    def guided(x, t, **kwargs):
        out = model(torch.cat([x, x]), torch.cat([t, t]), **kwargs)
        with_text, without = out[:count, :3], out[count:, :3]
        noise_guess = without + guidance * (with_text - without)
        return torch.cat([noise_guess, out[:count, 3:]], dim=1)

    model.del_cache()
    x = noise(options["image_size"])
    for step in reversed(range(diffusion.num_timesteps)):
        t = torch.full((count,), step, device=device)
        out = diffusion.p_mean_variance(
            guided, x, t, clip_denoised=True, model_kwargs=text
        )
        x = out["mean"]
        if step:  # the last step adds no noise
            spread = torch.exp(0.5 * out["log_variance"])
            x = x + spread * noise(options["image_size"])
    model.del_cache()
    return x


def _tokens(model, prompts, context: int, device: str) -> dict[str, Any]:
    """Returns tokens, int64, and mask, bool, both [n, context]; None is no text."""
    import torch

    tokenizer = model.tokenizer
    encoded = [[] if prompt is None else tokenizer.encode(prompt) for prompt in prompts]
    pairs = [tokenizer.padded_tokens_and_mask(tokens, context) for tokens in encoded]
    tokens, mask = (
        torch.tensor(rows, device=device) for rows in zip(*pairs, strict=True)
    )
    return {"tokens": tokens, "mask": mask.bool()}
