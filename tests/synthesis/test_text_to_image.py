"""Tests the generate command with real diffusers pipelines of random weights."""

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
from generate_helpers import text_of, tree, write_prompts  # noqa: E402

from rsmatch_jax.runtime.child import ROOT  # noqa: E402
from rsmatch_jax.synthesis.generate import __main__ as generate  # noqa: E402
from rsmatch_jax.synthesis.generate import batches  # noqa: E402

STEPS = 2


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Paths of the pipelines: plain (its checker flags none), strict, sdxl and unet."""
    torch.set_num_threads(1)  # as in other processes, so that sums have one order
    folder = tmp_path_factory.mktemp("models")
    plain = tiny_models.stable_diffusion(folder / "plain")
    strict = tiny_models.stable_diffusion(folder / "strict", strict=True)
    sdxl, unet = tiny_models.sdxl(folder / "sdxl")
    return {"plain": plain, "strict": strict, "sdxl": sdxl, "unet": unet}


@pytest.fixture
def run(tmp_path, capsys):
    return generate_helpers.runner(tmp_path, capsys, "--device=cpu")


@pytest.fixture
def three(tmp_path):
    """Returns the flag of a file of three prompts."""
    return write_prompts(tmp_path / "three.jsonl", count=3)


def staged(tmp_path, name):
    """Returns {prompt: uint8 picture, or None if it was dropped}."""
    part = batches.Part(str(tmp_path / "pool"), name)
    pictures = dict.fromkeys(entry.prompt for entry in part.entries)
    for entry, png in part.pictures():
        pictures[entry.prompt] = np.asarray(Image.open(io.BytesIO(png)))
    return pictures


def alone(pipe, name, prompt, **arguments):
    """Returns one prompt's picture by the pipeline, and whether it is flagged."""
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(generate.seed_of(0, name, prompt))
    output = pipe(text_of(prompt), generator=seed, **arguments)
    flagged = (getattr(output, "nsfw_content_detected", None) or [False])[0]
    return np.asarray(output.images[0]), flagged


def test_sd14_with_weights_from_a_folder(tmp_path, models, run):
    prompts = write_prompts(tmp_path / "eight.jsonl", count=8)
    # The model of a folder, at its full size.
    flags = (f"--model_dir={models['strict']}", f"--steps={STEPS}", "--full_size")
    run("sd14", prompts, *flags, "--batch_size=3")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(models["strict"])
    pictures = staged(tmp_path, "sd14")
    dropped = 0
    for i in range(8):
        want, flagged = alone(pipe, "sd14", i, num_inference_steps=STEPS)
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


def test_sdxl_lightning_with_weights_from_a_folder(tmp_path, models, run, three):
    flags = ("sdxl_lightning", three, f"--model_dir={models['sdxl']}", "--full_size")
    assert "--unet=FILE" in run(*flags, code=2)
    run(*flags, f"--unet={models['unet']}")
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(models["sdxl"])
    arguments = {"num_inference_steps": 4, "guidance_scale": 0.0}
    other, _ = alone(pipe, "sdxl_lightning", 0, **arguments)
    weights = diffusers.models.model_loading_utils.load_state_dict(models["unet"])
    pipe.unet.load_state_dict(weights)
    pipe.scheduler = diffusers.EulerDiscreteScheduler(
        **tiny_models.SCHEDULE, timestep_spacing="trailing"
    )
    pictures = staged(tmp_path, "sdxl_lightning")
    for i, picture in pictures.items():
        want, _ = alone(pipe, "sdxl_lightning", i, **arguments)
        assert np.abs(picture.astype(int) - want).max() <= 1
    assert np.abs(pictures[0].astype(int) - other).max() > 10


def test_a_folder_with_the_pipelines_own_settings(tmp_path, models, run, three):
    flags = (models["plain"], three, "--size=8")
    run(*flags)
    report = json.loads((tmp_path / "pool" / "pool.json").read_text())
    settings = report["generators"]["plain"]["settings"]
    assert (settings["steps"], settings["guidance"]) == (50, 7.5)
    assert settings["pipeline"] == "StableDiffusionPipeline"
    assert report["resize"] == {"kernel": "Pillow BOX (area mean)", "size": 8}
    assert "steps: 50 there, 3 here" in run(*flags, "--steps=3", code=2)


def test_models_that_cannot_draw(tmp_path, models, run):
    bare = tmp_path / "bare"
    diffusers.StableDiffusionPipeline.from_pretrained(
        models["plain"], safety_checker=None
    ).save_pretrained(bare)
    assert "no safety checker" in run("sd14", f"--model_dir={bare}", code=2)
    index = bare / "model_index.json"
    content = json.loads(index.read_text())
    content["_class_name"] = "StableDiffusionImg2ImgPipeline"
    index.write_text(json.dumps(content))
    assert "no text-to-image model" in run(bare, code=2)
    assert "cannot be loaded as a model" in run(tmp_path, code=2)
    if not torch.cuda.is_available():
        assert "torch sees no GPU" in run(bare, "--device=cuda", code=2)


def test_noise_is_the_prompts_whatever_its_batch(tmp_path, models, run, monkeypatch):
    seen = []
    real = diffusers.StableDiffusionPipeline.prepare_latents

    def logged(*args, **kwargs):
        seen.append(real(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "prepare_latents", logged)
    prompts = write_prompts(tmp_path / "six.jsonl", count=6)
    noises = []
    for size in (1, 4):
        flags = (f"--batch_size={size}", f"--out={tmp_path}/pool{size}")
        run(models["plain"], prompts, "--name=same", f"--steps={STEPS}", *flags)
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
torch.set_num_threads(1)
for line in sys.stdin:
    process = os.fork()
    if not process:
        sys.stdout = sys.stderr
        os._exit(generate.main(json.loads(line)))
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def test_three_kills_lose_nothing(tmp_path, models):
    argv = [f"--generator={models['plain']}", f"--steps={STEPS}", "--batch_size=2"]
    argv += [write_prompts(tmp_path / "many.jsonl", count=40), "--device=cpu"]
    # In another process, because nothing may depend on random numbers of its start.
    assert generate.main([*argv, f"--out={tmp_path}/at_once"]) == 0
    folder = tmp_path / "pool/.staging/generators/plain/batches"
    rng = np.random.default_rng(0)

    def staged_batches():
        return len(list(folder.glob("*.zip")))

    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:

        def number():
            return int(starter.stdout.readline())

        def start():
            starter.stdin.write(json.dumps([*argv, f"--out={tmp_path}/pool"]) + "\n")
            starter.stdin.flush()
            return number()

        done = 0
        for _ in range(3):
            until = done + int(rng.integers(1, 5))
            process = start()
            begin = time.monotonic()
            while staged_batches() < until:
                time.sleep(0.001)
                if staged_batches() <= done:
                    begin = time.monotonic()
            a_batch = (time.monotonic() - begin) / max(1, until - done)
            time.sleep(rng.uniform(0, a_batch))
            os.kill(process, signal.SIGKILL)
            assert number() == -signal.SIGKILL
            done = staged_batches()
            assert until <= done < 20
        start()
        assert number() == 0
        starter.stdin.close()
    assert staged_batches() == 20
    pool = tree(tmp_path / "pool")
    assert any(name.endswith("tfrecord-00000") for name in pool)
    assert pool == tree(tmp_path / "at_once")
