"""The text-to-image models and their settings. Nothing is loaded here.

Stable Diffusion 1.4: Rombach et al. 2022, arXiv 2112.10752. SDXL-Lightning: Lin et al.
2024, arXiv 2402.13929. GLIDE: Nichol et al. 2022, arXiv 2112.10741.
"""

import dataclasses
import hashlib
import importlib.util
import os
import re
from typing import Any

from rsmatch_jax.errors import RequestError
from rsmatch_jax.synthesis.checks import PIP
from rsmatch_jax.synthesis.generate import glide

GLIDE_PIP = "pip install git+https://github.com/openai/glide-text2im"
_ENDS = 1 << 16
_LIGHTNING_FILE = "sdxl_lightning_4step_unet.safetensors"


@dataclasses.dataclass(frozen=True)
class Generator:
    """A model and its settings.

    model: hub id, or a folder if `local`. revision: on the hub. variant: name of the
    half-precision weights on the hub. unet: (hub id, revision, file), or a file if
    `local`, with weights that replace the model's UNet. steps, guidance: None is the
    pipeline's default. fixed: the weights were made for these steps and this guidance.
    native_size: pixels a side, None if only the loaded model tells. safety_checker:
    whether the model must have one. batch_size: pictures drawn at once.
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
    variant: str | None = None
    unet: tuple[str, str, str] | str | None = None
    fixed: bool = False
    safety_checker: bool = False
    local: bool = False
    packages: tuple[str, ...] = ("torch", "diffusers", "transformers")


SD14 = Generator(
    name="sd14",
    model="CompVis/stable-diffusion-v1-4",
    revision="133a221b8aa7292a167afc5127cb63fb5005638b",
    variant="fp16",
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
    variant="fp16",
    unet=(
        "ByteDance/SDXL-Lightning",
        "c9a24f48e1c025556787b0c58dd67a091ece2e44",
        _LIGHTNING_FILE,
    ),
    steps=4,
    guidance=0.0,
    fixed=True,
    native_size=1024,
    batch_size=4,
    licence="CreativeML Open RAIL++-M (model and UNet)",
    source="SDXL-Lightning, S. Lin et al. 2024, arXiv:2402.13929, 4 steps, on Stable "
    "Diffusion XL 1.0, D. Podell et al. 2023, arXiv:2307.01952",
)
GLIDE = Generator(
    name="glide",
    model="openai/glide-text2im",
    steps=int(glide.RESPACING),
    guidance=3.0,
    native_size=glide.SIZE,
    batch_size=16,
    licence="MIT",
    source="GLIDE (filtered), A. Nichol et al. 2022, arXiv:2112.10741",
    packages=("torch", "glide_text2im"),
)
GENERATORS = {g.name: g for g in (SD14, SDXL_LIGHTNING, GLIDE)}


def choose(
    generator: str,
    *,
    name: str | None = None,
    model_dir: str | None = None,
    unet: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    batch_size: int | None = None,
) -> Generator:
    """Returns the generator for these flags, or raises RequestError; loads nothing."""
    if generator in GENERATORS:
        chosen = GENERATORS[generator]
    elif os.path.isdir(generator):
        if model_dir:
            raise RequestError(
                f"--generator={generator} is a folder already; leave out --model_dir"
            )
        folder = os.path.basename(os.path.abspath(generator))
        chosen = Generator(
            name=re.sub(r"[^\w.-]+", "_", folder, flags=re.ASCII).lstrip("_.-")
            or "model",
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
    if chosen.fixed and (steps, guidance) != (None, None):
        raise RequestError(
            f"--generator={generator} was trained for {chosen.steps} steps with "
            f"guidance {chosen.guidance:g}; leave out --steps and --guidance"
        )
    if model_dir and not os.path.isdir(model_dir):
        raise RequestError(f"--model_dir={model_dir}: there is no such folder")
    if bool(unet) != bool(chosen.unet and model_dir):
        raise RequestError(
            f"--generator=sdxl_lightning with --model_dir needs --unet=FILE, its "
            f"{_LIGHTNING_FILE}; others have no --unet"
        )
    if unet and not os.path.isfile(unet):
        raise RequestError(f"--unet={unet}: there is no such file")
    if model_dir:
        _refuse_code(model_dir)
        model_dir = os.path.abspath(model_dir)
        chosen = dataclasses.replace(chosen, model=model_dir, local=True)
    changes: dict[str, Any] = {"name": name, "steps": steps, "guidance": guidance}
    changes |= {"batch_size": batch_size, "unet": unet}
    changes = {key: value for key, value in changes.items() if value is not None}
    chosen = dataclasses.replace(chosen, **changes)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", chosen.name, re.ASCII):
        raise RequestError(
            f"--name={chosen.name} must be letters, digits, '.', '_' and '-'"
        )
    return chosen


def _refuse_code(folder: str):
    # Some versions of diffusers run a model's pipeline.py without a question.
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


def identity(generator: Generator) -> dict[str, Any]:
    """Returns what identifies the weights: hub ids and revisions, or file digests."""
    if generator.local:
        weights = {"model": "local", "weights": _fingerprint(generator.model)}
        if isinstance(generator.unet, str):
            weights["unet"] = _fingerprint(generator.unet)
        return weights
    weights = {"model": generator.model, "weights": generator.revision}
    if generator.unet:
        weights["unet"] = "@".join(generator.unet)
    return weights


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
    paths = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        paths += [os.path.join(parent, n) for n in names if not n.startswith(".")]
    return sorted(paths)
