"""Tests the generate command with real diffusers pipelines of random weights."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import generate_helpers  # noqa: E402
import tiny_models  # noqa: E402

from rsmatch_jax.synthesis.generate import __main__ as generate  # noqa: E402
from rsmatch_jax.synthesis.generate import batches  # noqa: E402
from rsmatch_jax.synthesis.prompts import prompt_file  # noqa: E402
from rsmatch_jax.synthesis.prompts.prompt_file import Prompt  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLASSES = ("cat", "dog")
STEPS = 2


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Paths of the pipelines: plain (its checker flags none), strict, sdxl and unet."""
    folder = tmp_path_factory.mktemp("models")
    plain = tiny_models.stable_diffusion(folder / "plain")
    strict = tiny_models.stable_diffusion(folder / "strict", strict=True)
    sdxl, unet = tiny_models.sdxl(folder / "sdxl")
    return {"plain": plain, "strict": strict, "sdxl": sdxl, "unet": unet}


def write_prompts(path, count):
    words = ("sits", "runs", "sleeps in the sun", "looks up")
    texts = [f"a {CLASSES[i % 2]} {words[i % 4]} {i}" for i in range(count)]
    prompts = [Prompt(i % 2, text) for i, text in enumerate(texts)]
    path.write_text(prompt_file.text("pets", CLASSES, {}, prompts))
    return texts


def flags(tmp_path, generator, *more):
    return [
        f"--prompts={tmp_path}/prompts.jsonl",
        f"--generator={generator}",
        f"--out={tmp_path}/pool",
        "--device=cpu",
        *more,
    ]


def staged(tmp_path, name):
    """Returns {prompt: uint8 picture, or None if it was dropped}."""
    part = batches.Part(str(tmp_path / "pool"), name)
    pictures = dict.fromkeys(entry.prompt for entry in part.entries)
    for entry, png in part.pictures():
        pictures[entry.prompt] = np.asarray(Image.open(io.BytesIO(png)))
    return pictures


def alone(pipe, name, prompt, text, **arguments):
    """Returns one prompt's picture by the pipeline, and whether it is flagged."""
    seed = torch.Generator().manual_seed(generate.seed_of(0, name, prompt))
    output = pipe(text, generator=seed, **arguments)
    flagged = (getattr(output, "nsfw_content_detected", None) or [False])[0]
    return np.asarray(output.images[0]), flagged


def test_sd14_with_weights_from_a_folder(tmp_path, models, capsys):
    texts = write_prompts(tmp_path / "prompts.jsonl", 8)
    # The model of a folder, at its full size.
    argv = flags(tmp_path, "sd14", f"--model_dir={models['strict']}")
    argv += [f"--steps={STEPS}", "--full_size", "--batch_size=3"]
    assert generate.main(argv) == 0, capsys.readouterr().err
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(models["strict"])
    pipe.set_progress_bar_config(disable=True)
    pictures = staged(tmp_path, "sd14")
    dropped = 0
    for i, text in enumerate(texts):
        want, flagged = alone(pipe, "sd14", i, text, num_inference_steps=STEPS)
        dropped += flagged
        if flagged:
            assert not want.any(), "the pipeline's own answer is a black picture"
            assert pictures[i] is None
        else:  # another batch size changes the order of sums
            assert np.abs(pictures[i].astype(int) - want).max() <= 1
    assert 0 < dropped < 8
    pool = generate_helpers.load(tmp_path / "pool", tmp_path)
    assert pool.images.shape == (8 - dropped, 32, 32, 3)
    assert all(image.any() for image in pool.images)
    report = json.loads((tmp_path / "pool" / "pool.json").read_text())
    made = report["generators"]["sd14"]
    assert made["dropped"] == {"safety checker": dropped}
    assert made["images"] == 8 - dropped
    assert made["settings"]["guidance"] == 7.5
    assert made["settings"]["steps"] == STEPS
    assert made["settings"]["precision"] == "float32"
    assert made["environments"][0]["torch"] == torch.__version__
    assert made["licence"] == "CreativeML OpenRAIL-M"


def test_sdxl_lightning_with_weights_from_a_folder(tmp_path, models, capsys):
    texts = write_prompts(tmp_path / "prompts.jsonl", 3)
    argv = flags(tmp_path, "sdxl_lightning", f"--model_dir={models['sdxl']}")
    assert generate.main(argv) == 2
    assert "--unet=FILE" in capsys.readouterr().err
    argv += [f"--unet={models['unet']}", "--full_size"]
    assert generate.main(argv) == 0, capsys.readouterr().err
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(models["sdxl"])
    pipe.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": 4, "guidance_scale": 0.0}
    other, _ = alone(pipe, "sdxl_lightning", 0, texts[0], **arguments)
    weights = diffusers.models.model_loading_utils.load_state_dict(models["unet"])
    pipe.unet.load_state_dict(weights)
    pipe.scheduler = diffusers.EulerDiscreteScheduler(
        **tiny_models.schedule(), timestep_spacing="trailing"
    )
    pictures = staged(tmp_path, "sdxl_lightning")
    for i, text in enumerate(texts):
        want, _ = alone(pipe, "sdxl_lightning", i, text, **arguments)
        assert np.abs(pictures[i].astype(int) - want).max() <= 1
    assert np.abs(pictures[0].astype(int) - other).max() > 10


def test_a_folder_with_the_pipelines_own_settings(tmp_path, models, capsys):
    write_prompts(tmp_path / "prompts.jsonl", 2)
    argv = flags(tmp_path, models["plain"], "--size=8")
    assert generate.main(argv) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "pool" / "pool.json").read_text())
    settings = report["generators"]["plain"]["settings"]
    assert (settings["steps"], settings["guidance"]) == (50, 7.5)
    assert settings["pipeline"] == "StableDiffusionPipeline"
    assert report["resize"] == {"kernel": "Pillow BOX (area mean)", "size": 8}
    assert generate.main([*argv, "--steps=3"]) == 2
    assert "steps: 50 there, 3 here" in capsys.readouterr().err


def test_models_that_cannot_draw(tmp_path, models, capsys):
    write_prompts(tmp_path / "prompts.jsonl", 2)
    bare = tiny_models.stable_diffusion(tmp_path / "bare", checker=False)
    assert generate.main(flags(tmp_path, "sd14", f"--model_dir={bare}")) == 2
    assert "no safety checker" in capsys.readouterr().err
    index = tmp_path / "bare" / "model_index.json"
    content = json.loads(index.read_text())
    content["_class_name"] = "StableDiffusionImg2ImgPipeline"
    index.write_text(json.dumps(content))
    assert generate.main(flags(tmp_path, bare)) == 2
    assert "no text-to-image model" in capsys.readouterr().err
    assert generate.main(flags(tmp_path, str(tmp_path))) == 2
    printed = capsys.readouterr().err
    assert "cannot be loaded as a model" in printed
    assert "Traceback" not in printed
    if not torch.cuda.is_available():
        assert generate.main([*flags(tmp_path, bare), "--device=cuda"]) == 2
        assert "torch sees no GPU" in capsys.readouterr().err


def test_noise_is_the_prompts_whatever_its_batch(tmp_path, models, monkeypatch):
    seen = []
    real = diffusers.StableDiffusionPipeline.prepare_latents

    def logged(*args, **kwargs):
        seen.append(real(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "prepare_latents", logged)
    write_prompts(tmp_path / "prompts.jsonl", 6)
    noises = []
    for size in (1, 4):
        argv = flags(tmp_path, models["plain"], "--name=same", f"--steps={STEPS}")
        argv += [f"--batch_size={size}", f"--out={tmp_path}/pool{size}"]
        assert generate.main(argv) == 0
        noises.append(torch.cat(seen).numpy())
        seen.clear()
    np.testing.assert_array_equal(*noises)
    assert len({row.tobytes() for row in noises[0]}) == 6


# Imports once; every line of flags becomes one process.
STARTER = """
import json, os, sys
import torch
from diffusers import StableDiffusionPipeline
from rsmatch_jax.synthesis.generate import __main__ as generate
for line in sys.stdin:
    process = os.fork()
    if not process:
        sys.stdout = sys.stderr
        os._exit(generate.main(json.loads(line)))
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def tree(folder):
    """Returns {path: content} of the pool and of the staged batches, in two dicts."""
    files = generate_helpers.tree(folder)
    pool = {k: v for k, v in files.items() if not k.startswith(".staging")}
    return pool, {k: v for k, v in files.items() if k.endswith(".zip")}


@contextlib.contextmanager
def starting():
    """Yields start(flags) -> process number and code() -> its exit code."""
    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:

        def start(argv):
            starter.stdin.write(json.dumps(argv) + "\n")
            starter.stdin.flush()
            return int(starter.stdout.readline())

        yield start, lambda: int(starter.stdout.readline())
        starter.stdin.close()


def test_three_kills_lose_nothing(tmp_path, models):
    write_prompts(tmp_path / "prompts.jsonl", 40)
    argv = flags(tmp_path, models["plain"], f"--steps={STEPS}", "--batch_size=2")
    folder = tmp_path / "pool/.staging/generators/plain/batches"
    rng = np.random.default_rng(0)

    def staged_batches():
        return len(list(folder.glob("*.zip")))

    with starting() as (start, code):
        start([*argv, f"--out={tmp_path}/whole/pool"])
        assert code() == 0
    # In another process, because nothing may depend on random numbers of its start.
    with starting() as (start, code):
        done = 0
        for _ in range(3):
            until = done + int(rng.integers(1, 5))
            process = start(argv)
            begin = time.monotonic()
            while staged_batches() < until:
                time.sleep(0.001)
                if staged_batches() <= done:
                    begin = time.monotonic()
            a_batch = (time.monotonic() - begin) / max(1, until - done)
            time.sleep(rng.uniform(0, a_batch))
            os.kill(process, signal.SIGKILL)
            assert code() == -signal.SIGKILL
            done = staged_batches()
            assert until <= done < 20
        start(argv)
        assert code() == 0
    pool, zips = tree(tmp_path / "pool")
    assert len(zips) == 20
    assert (pool, zips) == tree(tmp_path / "whole/pool")
    assert any(name.endswith("tfrecord-00000") for name in pool)
