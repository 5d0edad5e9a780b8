"""The text-to-image models and their settings. Nothing is loaded here.

Stable Diffusion 1.4: Rombach et al. 2022, arXiv 2112.10752. SDXL-Lightning: Lin et al.
2024, arXiv 2402.13929. GLIDE: Nichol et al. 2022, arXiv 2112.10741.
"""

import dataclasses
import glob
import hashlib
import importlib.util
import os
import re
from typing import Any

from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis.checks import PIP
from rsmatch_jax.synthesis.generate import glide

GLIDE_PIP = "pip install git+https://github.com/openai/glide-text2im"
_ENDS = 1 << 16  # bytes read at either end of a file
_LIGHTNING_FILE = "sdxl_lightning_4step_unet.safetensors"


@dataclasses.dataclass(frozen=True)
class Generator:
    """A model and its settings.

    model: hub id, or a folder if `local`. revision: commit on the hub. steps, guidance:
    None is the pipeline's default. native_size: pixels a side, None if only the loaded
    model tells. batch_size: pictures drawn at once. unet: (hub id, revision, file), or
    a file if `local`, with weights that replace the model's UNet and were made for
    these steps and this guidance alone. safety_checker: the model must have one.
    """

    name: str
    model: str
    licence: str
    source: str
    steps: int | None = None
    guidance: float | None = None
    native_size: int | None = None
    batch_size: int = 4
    revision: str | None = None
    unet: tuple[str, str, str] | str | None = None
    safety_checker: bool = False
    local: bool = False
    packages: tuple[str, ...] = ("torch", "diffusers", "transformers")


SD14 = Generator(
    name="sd14",
    model="CompVis/stable-diffusion-v1-4",
    revision="133a221b8aa7292a167afc5127cb63fb5005638b",
    steps=50,
    guidance=7.5,
    native_size=512,
    batch_size=16,
    safety_checker=True,
    licence="CreativeML OpenRAIL-M",
    source="Stable Diffusion 1.4, R. Rombach et al. 2022, arXiv:2112.10752",
)
SDXL_LIGHTNING = Generator(
    name="sdxl_lightning",
    model="stabilityai/stable-diffusion-xl-base-1.0",
    revision="462165984030d82259a11f4367a4eed129e94a7b",
    unet=(
        "ByteDance/SDXL-Lightning",
        "c9a24f48e1c025556787b0c58dd67a091ece2e44",
        _LIGHTNING_FILE,
    ),
    steps=4,
    guidance=0.0,
    native_size=1024,
    licence="CreativeML Open RAIL++-M (model and UNet)",
    source="SDXL-Lightning, S. Lin et al. 2024, arXiv:2402.13929, 4 steps, on Stable "
    "Diffusion XL 1.0, D. Podell et al. 2023, arXiv:2307.01952",
)
GLIDE = Generator(
    name="glide",
    model="openai/glide-text2im",
    steps=100,
    guidance=3.0,
    native_size=glide.SIZE,
    batch_size=16,
    licence="MIT",
    source="GLIDE (filtered), A. Nichol et al. 2022, arXiv:2112.10741",
    packages=("torch", "glide_text2im"),
)
GENERATORS = {g.name: g for g in (SD14, SDXL_LIGHTNING, GLIDE)}


def choose(generator: str, model_dir: str | None = None, **settings: Any) -> Generator:
    """Returns the generator for these flags, or raises RequestError; loads nothing.
    settings: name, unet, steps, guidance, batch_size; None keeps the generator's."""
    changes = {key: value for key, value in settings.items() if value is not None}
    if generator in GENERATORS:
        chosen = GENERATORS[generator]
    elif os.path.isdir(generator):
        if model_dir:
            raise RequestError(
                f"--generator={generator} is a folder already; leave out --model_dir"
            )
        folder = os.path.basename(os.path.abspath(generator))
        name = re.sub(r"[^\w.-]+", "_", folder, flags=re.ASCII).lstrip("_.-")
        chosen = Generator(
            name=name or "model",
            model="",
            licence="see the model's own card",
            source=f"the model {folder}",
        )
        model_dir = generator
    else:
        raise RequestError(
            f"--generator={generator} is neither one of {', '.join(GENERATORS)} nor a "
            "folder; give one of these or the path of a diffusers model"
        )
    if chosen.unet and changes.keys() & {"steps", "guidance"}:
        raise RequestError(
            f"--generator={generator} was trained for {chosen.steps} steps with "
            f"guidance {chosen.guidance:g}; leave out --steps and --guidance"
        )
    unet = changes.get("unet")
    if bool(unet) != bool(chosen.unet and model_dir):
        raise RequestError(
            "--generator=sdxl_lightning with --model_dir needs --unet=FILE, its "
            f"{_LIGHTNING_FILE}; others have no --unet"
        )
    if unet and not os.path.isfile(unet):
        raise RequestError(f"--unet={unet}: there is no such file")
    if model_dir:
        if not os.path.isdir(model_dir):
            raise RequestError(f"--model_dir={model_dir}: there is no such folder")
        _refuse_code(model_dir)
        changes |= {"model": os.path.abspath(model_dir), "local": True}
        changes["native_size"] = None  # a folder's model may draw another size
    chosen = dataclasses.replace(chosen, **changes)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", chosen.name, re.ASCII):
        raise RequestError(
            f"--name={chosen.name} must be letters, digits, '.', '_' and '-'"
        )
    return chosen


def _refuse_code(folder: str):
    # Some versions of diffusers run a model's pipeline.py without asking.
    if code := [file for file in _files_below(folder) if file.endswith(".py")]:
        raise RequestError(
            f"{code[0]}: a model with code is not loaded; remove that file, or give "
            "another model"
        )


def require(generator: Generator):
    """Raises RequestError with the pip command if a package is missing."""
    missing = [p for p in generator.packages if importlib.util.find_spec(p) is None]
    if missing:
        lines = [GLIDE_PIP if p == "glide_text2im" else PIP for p in missing]
        raise RequestError(
            f"--generator={generator.name} needs {', '.join(missing)}: "
            + " && ".join(dict.fromkeys(lines))
        )


def base_settings(generator: Generator, seed: int) -> dict[str, Any]:
    """Returns what the pictures depend on, as far as an unloaded model tells."""
    if generator.local:
        content = {"model": "local", "weights": _fingerprint(generator.model)}
        if isinstance(generator.unet, str):
            content["unet"] = _fingerprint(generator.unet)
    else:
        content = {"model": generator.model, "weights": generator.revision}
        if generator.unet:
            content["unet"] = "@".join(generator.unet)
    content |= {"seed": seed, "batch_size": generator.batch_size}
    optional = {"steps": generator.steps, "guidance": generator.guidance}
    return content | {k: v for k, v in optional.items() if v is not None}


def _fingerprint(path: str) -> str:
    """Returns 16 hex digits of files: their names, sizes, first and last bytes."""
    total = hashlib.sha256()
    files = [path] if os.path.isfile(path) else _files_below(path)
    for file in files:
        size = os.path.getsize(file)
        total.update(f"{os.path.relpath(file, path)}\0{size}\0".encode())
        with open(file, "rb") as f:
            total.update(f.read(_ENDS))
            f.seek(max(0, size - _ENDS))
            total.update(f.read(_ENDS))
    return total.hexdigest()[:16]


def _files_below(folder: str) -> list[str]:
    """Returns all paths below a folder, sorted, without hidden files and folders."""
    paths = glob.iglob(os.path.join(glob.escape(folder), "**"), recursive=True)
    return sorted(path for path in paths if not os.path.isdir(path))
