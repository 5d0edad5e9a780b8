"""GLIDE's drawing, with a stand-in for its package: noise per picture, guidance, both
stages. The stand-in has the package's functions and shapes, and sums that can be done
by hand."""

import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rsmatch_jax.errors import RequestError  # noqa: E402
from rsmatch_jax.synthesis.generate import drawing, glide, pipelines  # noqa: E402

CONTEXT, BASE, LARGE, STEPS = 6, 4, 8, 3
DECAY, SPREAD = 0.5, 0.25  # of the stand-in's steps


class Tokenizer:
    def encode(self, text):
        return [ord(letter) % 32 for letter in text]

    def padded_tokens_and_mask(self, tokens, context):
        tokens = tokens[:context]
        pad = context - len(tokens)
        return tokens + [99] * pad, [True] * len(tokens) + [False] * pad


class Model(torch.nn.Module):
    """Predicts weight * (sum of the tokens of the text), whatever the picture."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.tokenizer, self.low_res = Tokenizer(), []

    def forward(self, x, timesteps, tokens=None, mask=None, low_res=None):
        assert timesteps.shape == (len(x),)
        assert tokens.shape == mask.shape == (len(x), CONTEXT)
        assert mask.dtype == torch.bool
        if low_res is not None:
            self.low_res.append(low_res)
        text = (tokens * mask).sum(1).float() * self.weight
        eps = torch.ones_like(x) * text[:, None, None, None]
        # The variance of the prediction with text counts.
        variance = torch.where(text > 0, 0.0, 5.0)[:, None, None, None]
        return torch.cat([eps, torch.ones_like(x) * variance], 1)

    def convert_to_fp16(self):
        raise AssertionError("on a CPU")

    def del_cache(self):
        pass


class Diffusion:
    def __init__(self, steps):
        self.num_timesteps = steps

    def p_mean_variance(self, model, x, t, clip_denoised, model_kwargs):
        assert clip_denoised
        out = model(x, t, **model_kwargs)
        assert out.shape == (len(x), 6, *x.shape[2:])
        log = 2 * np.log(SPREAD) + out[:, 3:]
        return {"mean": DECAY * x + out[:, :3], "log_variance": log}

    def ddim_sample_loop(
        self, model, shape, noise, clip_denoised, model_kwargs, device, eta
    ):
        assert eta == 0.0
        assert tuple(noise.shape) == shape
        t = torch.zeros(len(noise), dtype=torch.long)
        return 0.1 * noise + model(noise, t, **model_kwargs)[:, :3]


@pytest.fixture
def package(monkeypatch, tmp_path):
    """The stand-in with its weights: 0.01 in the base model, 0.02 in the other."""
    models = []

    def defaults(size):
        return lambda: {"image_size": size, "text_ctx": CONTEXT}

    def create(image_size, text_ctx, use_fp16, timestep_respacing):
        assert not use_fp16
        assert timestep_respacing == {BASE: str(STEPS), LARGE: "fast27"}[image_size]
        models.append(Model())
        return models[-1], Diffusion(STEPS)

    creation = types.SimpleNamespace(
        model_and_diffusion_defaults=defaults(BASE),
        model_and_diffusion_defaults_upsampler=defaults(LARGE),
        create_model_and_diffusion=create,
    )
    download = types.SimpleNamespace(MODEL_PATHS={"base": "https://base"})
    top = types.SimpleNamespace(model_creation=creation, download=download)
    monkeypatch.setitem(sys.modules, "glide_text2im", top)
    torch.save({"weight": torch.tensor(0.01)}, tmp_path / "base.pt")
    torch.save({"weight": torch.tensor(0.02)}, tmp_path / "upsample.pt")
    return models, str(tmp_path)


def by_hand(text, seed, guidance):
    """One picture; its noise in order: the start, the steps', the upsampler's."""
    noise = torch.Generator().manual_seed(seed)
    total = sum(Tokenizer().encode(text)[:CONTEXT])
    x = torch.randn((3, BASE, BASE), generator=noise)
    for step in reversed(range(STEPS)):
        x = DECAY * x + guidance * 0.01 * total  # without text the stand-in predicts 0
        if step:
            x = x + SPREAD * torch.randn((3, BASE, BASE), generator=noise)
    large = 0.0997 * torch.randn((3, LARGE, LARGE), generator=noise) + 0.02 * total
    pixels = ((large + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return x, pixels.permute(1, 2, 0).numpy()


def test_pictures_are_those_of_their_seeds(package):
    models, folder = package
    draw = glide.load(folder, STEPS, 3.0, "cpu")
    texts, seeds = ["a", "bcd", "a much longer text"], [5, 6, 7]
    together = draw(texts, seeds)
    (low,) = models[1].low_res
    for i, (text, seed) in enumerate(zip(texts, seeds, strict=True)):
        small, want = by_hand(text, seed, 3.0)
        np.testing.assert_array_equal(together[i], want)
        # The upsampler sees the small picture rounded to 8 bits.
        rounded = ((small + 1) * 127.5).round() / 127.5 - 1
        torch.testing.assert_close(low[i], rounded, atol=1e-5, rtol=0)
        (single,) = draw([text], [seed])
        np.testing.assert_array_equal(single, want)
    assert not np.array_equal(together[0], draw(["a"], [8])[0])


def test_loading_by_way_of_the_generator(package):
    _, folder = package
    chosen = pipelines.choose("glide", model_dir=folder, steps=STEPS)
    drawer = drawing.load(chosen, "cpu")
    assert drawer.settings["steps"] == STEPS
    assert drawer.settings["guidance"] == 3.0
    assert "fast27" in drawer.settings["upsampler"]
    np.testing.assert_array_equal(drawer.draw(["a"], [5])[0], by_hand("a", 5, 3.0)[1])


def test_absent_weights_are_named(package, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(RequestError, match=r"no base\.pt.*https://base"):
        glide.load(str(tmp_path / "none"), STEPS, 3.0, "cpu")
