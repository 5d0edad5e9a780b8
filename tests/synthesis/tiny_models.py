"""Saves text-to-image pipelines of a few thousand random weights."""

import json
import os

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import (
    StableDiffusionSafetyChecker,
)
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
)

SIZE = 32  # pixels drawn: 16 latents, and an autoencoder that halves once
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,"


def tokenizer(folder):
    """Returns a tokenizer of letters, alone and at the end of a word."""
    os.makedirs(folder, exist_ok=True)
    tokens = ["<|startoftext|>", "<|endoftext|>", *LETTERS]
    tokens += [f"{letter}</w>" for letter in LETTERS]
    with open(os.path.join(folder, "vocab.json"), "w") as f:
        json.dump({token: i for i, token in enumerate(tokens)}, f)
    with open(os.path.join(folder, "merges.txt"), "w") as f:
        f.write("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def text_config(**changes):
    return CLIPTextConfig(
        vocab_size=len(LETTERS) * 2 + 2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        **changes,
    )


def unet(width, **changes):
    return UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=width,
        **changes,
    )


def autoencoder():
    return AutoencoderKL(
        block_out_channels=(4, 8),
        norm_num_groups=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )


def schedule():
    """Returns the schedule of Stable Diffusion."""
    return {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }


def stable_diffusion(folder, strict=False, checker=True):
    """Saves a pipeline. strict: its safety checker flags about half of the pictures,
    else none; checker: whether it has one."""
    torch.manual_seed(0)
    safety = extractor = None
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        image_size=SIZE,
        patch_size=8,
    )
    if checker:
        safety = StableDiffusionSafetyChecker(
            CLIPConfig(
                text_config=text_config().to_dict(),
                vision_config=vision.to_dict(),
                projection_dim=8,
            )
        )
        extractor = CLIPImageProcessor(
            size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
        )
    pipe = StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(f"{folder}-tokenizer"),
        unet=unet(16),
        scheduler=DDIMScheduler(
            **schedule(), clip_sample=False, set_alpha_to_one=False
        ),
        safety_checker=safety,
        feature_extractor=extractor,
        requires_safety_checker=checker,
    )
    if checker:
        _set_strictness(pipe, strict)
    pipe.save_pretrained(folder)
    return str(folder)


def _set_strictness(pipe, strict):
    """Draws eight pictures, and moves the checker's concepts between them."""
    checker = pipe.safety_checker
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(2.0)  # cosines are at most 1
        checker.special_care_embeds_weights.fill_(2.0)
        if not strict:
            return
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(i) for i in range(8)]
        drawn = pipe(["a"] * 8, num_inference_steps=2, generator=generators).images
        pixels = pipe.feature_extractor(drawn, return_tensors="pt").pixel_values
        embeds = checker.visual_projection(checker.vision_model(pixels)[1])
        mean = embeds.mean(0)
        # Separates the pictures at their mean, where they differ most.
        direction = torch.linalg.svd(embeds - mean)[2][0]
        checker.concept_embeds[0] = direction
        cosine = torch.nn.functional.cosine_similarity(mean, direction, dim=0)
        checker.concept_embeds_weights[0] = cosine


def sdxl(folder):
    """Saves a pipeline and UNet weights of another seed; returns both paths."""
    torch.manual_seed(0)
    more = {"hidden_act": "gelu", "projection_dim": 16}
    extra = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 16,
        "use_linear_projection": True,
    }
    pipe = StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(text_config(**more)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(**more)),
        tokenizer=tokenizer(f"{folder}-tokenizer"),
        tokenizer_2=tokenizer(f"{folder}-tokenizer"),
        unet=unet(32, **extra),
        scheduler=EulerDiscreteScheduler(**schedule(), timestep_spacing="leading"),
        add_watermarker=False,
    )
    pipe.save_pretrained(folder)
    path = f"{folder}-lightning.safetensors"
    save_file(unet(32, **extra).state_dict(), path)
    return str(folder), path
