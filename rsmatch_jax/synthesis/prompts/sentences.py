"""Samples sentences about a word from a sequence-to-sequence model of transformers.

Of the modules of the prompts only this one imports torch and transformers. The model's
input is the class's word alone, as in He et al. (arXiv 2210.07574); the sentences vary
because their tokens are sampled.
"""

import dataclasses
import importlib.metadata
import math
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from rsmatch_jax.errors import RequestError, RunFailed, one_line
from rsmatch_jax.synthesis.checks import PIP, setting

DEFAULT_MODEL = "mrm8488/t5-base-finetuned-common_gen"
_UNKNOWN_LICENCE = "see the model's page"
# write(word, key) returns batch_size pairs (sentence, whether it is complete), which
# depend on word and key alone.
Write: TypeAlias = Callable[[str, tuple[int, int]], list[tuple[str, bool]]]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings that change the sentences; each is a flag.

    temperature, top_k and top_p have the defaults of transformers, which He et al. use;
    that of max_tokens is from the model's card. batch_size matters because the
    sentences of a batch share one stream of random numbers.
    """

    seed: int = setting(0, "seed of the sampling", 0, 2**32 - 1)
    batch_size: int = setting(64, "sentences sampled at once, all of one class", 1)
    temperature: float = setting(
        1.0,
        "of sampling; a higher one gives more varied, less fluent text",
        0,
        math.inf,
        True,
    )
    top_k: int = setting(50, "sample from this many likeliest tokens, 0 for all", 0)
    top_p: float = setting(1.0, "total probability of tokens to sample", 0, 1, True)
    max_tokens: int = setting(32, "longest sentence, in tokens", 1)


def load(name: str, sampling: Sampling) -> tuple[Write, dict[str, Any]]:
    """Loads a sequence-to-sequence model by its hub id or folder.

    The weights are bfloat16 on a GPU that has it, else float32: T5 overflows float16.
    Also returns made_with and model_licence, two entries of the prompt file's header.
    """
    source = os.path.expanduser(name)
    try:
        import torch  # lazy: optional, see requirements-synthesis.txt

        tokenizer, model = _pretrained(name, source)
    except ImportError as e:
        raise RequestError(
            f"writing prompts by --model={name} needs PyTorch, transformers and, for "
            f"some models, other packages ({e}): {PIP}"
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
    flags = dataclasses.asdict(sampling)
    seed, count = flags.pop("seed"), flags.pop("batch_size")
    flags["max_new_tokens"] = flags.pop("max_tokens")

    def write(word: str, key: tuple[int, int]) -> list[tuple[str, bool]]:
        # A stream for this batch, which must not depend on those before it.
        stream = np.random.SeedSequence([seed, *key])
        torch.manual_seed(int(stream.generate_state(1, np.uint64)[0]))
        inputs = tokenizer(word, return_tensors="pt").to(device)
        try:
            with torch.inference_mode():
                tokens = model.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    do_sample=True,
                    num_beams=1,
                    num_return_sequences=count,
                    **flags,
                )
        except torch.OutOfMemoryError as e:
            raise RunFailed(
                f"--batch_size={count} does not fit the GPU: {one_line(e)} Lower it"
            ) from e
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        complete = torch.isin(tokens[:, 1:], ends).any(dim=1).tolist()
        return list(zip(texts, complete, strict=True))

    made_with = {
        "torch": str(torch.__version__),
        "transformers": importlib.metadata.version("transformers"),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "precision": str(dtype).removeprefix("torch."),
        "model_commit": getattr(model.config, "_commit_hash", None),
    }
    return write, {"made_with": made_with, "model_licence": _licence(source)}


def _pretrained(name: str, source: str):
    """Loads (tokenizer, model) from `source`. name: the flag's value, for messages."""
    import transformers  # lazy: optional, as PyTorch

    transformers.logging.set_verbosity_error()
    try:
        # By default transformers asks at the terminal whether to run a model's code.
        safe = {"trust_remote_code": False}
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **safe)
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(source, **safe)
        return tokenizer, model
    except ImportError:
        raise
    except Exception as e:
        # Unknown ids, other architectures and damaged files raise different errors.
        raise RequestError(
            f"--model={name} cannot be loaded: {one_line(e, 300)} Give the hub's id of "
            "a sequence-to-sequence model, or the folder of a copy. Without a network, "
            "make the copy on another machine: "
            f"hf download {name} --local-dir=DIR"
        ) from e


def _licence(source: str) -> str:
    """Returns the licence that the model's card names, if it can be read."""
    from huggingface_hub import ModelCard  # lazy: comes with transformers

    card = os.path.join(source, "README.md") if os.path.isdir(source) else source
    try:
        return ModelCard.load(card).data.license or _UNKNOWN_LICENCE
    except Exception:  # offline, no card, or a card without metadata
        return _UNKNOWN_LICENCE
