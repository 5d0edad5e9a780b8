"""Sentences about a word, by a word-to-sentence model of transformers.

The one place that imports torch and transformers for the prompts. The model is fed the
class word alone and sampled from, as He et al. do (arXiv 2210.07574): variety comes
from chance.
"""

import dataclasses
import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from rsmatch_jax.errors import RequestError, RunFailed

DEFAULT_MODEL = "mrm8488/t5-base-finetuned-common_gen"
PIP = "pip install -r requirements-synthesis.txt"
_UNKNOWN_LICENCE = "see the model's page"


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What the sentences depend on beside word, model and machine; all are flags.

    temperature, top_k and top_p are those of plain sampling in transformers, which He
    et al. take; max_tokens is that of the model's card. batch_size is here because a
    batch is drawn from one stream of random numbers.
    """

    seed: int = 0
    batch_size: int = 64
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    max_tokens: int = 32


@dataclasses.dataclass(frozen=True)
class Writer:
    """A loaded model.

    write(word, key): batch_size pairs (sentence, whether it came to its end), decided
    by word and key alone. made_with: versions, device, precision, the model's commit.
    """

    write: Callable[[str, tuple[int, int]], list[tuple[str, bool]]]
    made_with: dict[str, Any]
    licence: str


def load(name: str, sampling: Sampling) -> Writer:
    """Loads a sequence-to-sequence model by its hub id or folder.

    Half precision on a GPU is bfloat16, where the GPU has it: T5 overflows float16.
    Raises: RequestError where the packages or the model are not to be had.
    """
    try:
        import torch  # lazy: optional, see requirements-synthesis.txt
        import transformers
    except ImportError as e:
        raise RequestError(
            f"writing prompts needs PyTorch and transformers ({e}): {PIP}"
        ) from e
    transformers.logging.set_verbosity_error()
    source = os.path.expanduser(name)
    try:
        # Without this one asks at the terminal whether a model's own code may run.
        safe = {"trust_remote_code": False}
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **safe)
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(source, **safe)
    except ImportError as e:
        raise RequestError(f"--model={name} needs a package more ({e}): {PIP}") from e
    except Exception as e:
        # Unknown ids, other architectures, damaged files: each raises its own kind.
        raise RequestError(
            f"--model={name} cannot be loaded: {_first_line(e)} Give the hub's id of a "
            "sequence-to-sequence model, or the folder of a copy; without a network, "
            f"copy it where there is one: hf download {name} --local-dir=DIR"
        ) from e
    cuda = torch.cuda.is_available()
    half = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if half else torch.float32
    device = torch.device("cuda" if cuda else "cpu")
    model = model.to(device=device, dtype=dtype).eval()
    end = model.generation_config.eos_token_id
    if end is None:
        raise RequestError(f"--model={name} has no token that ends a sentence")
    ends = torch.tensor(end, device=device)

    def write(word: str, key: tuple[int, int]) -> list[tuple[str, bool]]:
        torch.manual_seed(_stream(sampling.seed, key))
        inputs = tokenizer(word, return_tensors="pt").to(device)
        try:
            with torch.inference_mode():
                tokens = model.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    do_sample=True,
                    num_beams=1,
                    num_return_sequences=sampling.batch_size,
                    temperature=sampling.temperature,
                    top_k=sampling.top_k,
                    top_p=sampling.top_p,
                    max_new_tokens=sampling.max_tokens,
                )
        except torch.OutOfMemoryError as e:
            raise RunFailed(
                f"--batch_size={sampling.batch_size} does not fit the GPU: "
                f"{_first_line(e)} Lower it"
            ) from e
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        ended = torch.isin(tokens[:, 1:], ends).any(dim=1).tolist()
        return list(zip(texts, ended, strict=True))

    made_with = {
        "torch": str(torch.__version__),
        "transformers": importlib.metadata.version("transformers"),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "precision": str(dtype).removeprefix("torch."),
        "model_commit": getattr(model.config, "_commit_hash", None),
    }
    return Writer(write, made_with, _licence(source))


def _stream(seed: int, key: tuple[int, int]) -> int:
    """A seed of torch for one batch, unlike those of all others."""
    words = np.random.SeedSequence([seed, *key]).generate_state(1, np.uint64)
    return int(words[0])


def _licence(source: str) -> str:
    """The licence that the model's card names, if it has one and can be read."""
    from huggingface_hub import ModelCard  # lazy: comes with transformers

    card = os.path.join(source, "README.md") if os.path.isdir(source) else source
    try:
        return ModelCard.load(card).data.license or _UNKNOWN_LICENCE
    except Exception:  # offline, no card, a card without metadata: all say the same
        return _UNKNOWN_LICENCE


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
