"""Saves text-to-image pipelines of a few thousand random weights."""

import json
import os

import diffusers
import torch
import transformers
from diffusers.pipelines.stable_diffusion import safety_checker
from safetensors.torch import save_file

SIZE = 32  # pixels drawn: 16 latents, and an autoencoder that halves once
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,"
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
SCHEDULE = {  # of Stable Diffusion
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def tokenizer(folder):
    """Returns a tokenizer of letters, alone and at the end of a word."""
    os.makedirs(folder, exist_ok=True)
    tokens = ["<|startoftext|>", "<|endoftext|>", *LETTERS]
    tokens += [f"{letter}</w>" for letter in LETTERS]
    with open(os.path.join(folder, "vocab.json"), "w") as f:
        json.dump({token: i for i, token in enumerate(tokens)}, f)
    with open(os.path.join(folder, "merges.txt"), "w") as f:
        f.write("#version: 0.2\n")
    return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def text_config(**changes):
    return transformers.CLIPTextConfig(
        vocab_size=len(LETTERS) * 2 + 2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        num_hidden_layers=2,
        **SMALL,
        **changes,
    )


def unet(width, **changes):
    return diffusers.UNet2DConditionModel(
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
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        norm_num_groups=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )


def checker():
    vision = transformers.CLIPVisionConfig(
        num_hidden_layers=1, image_size=SIZE, patch_size=8, **SMALL
    )
    return safety_checker.StableDiffusionSafetyChecker(
        transformers.CLIPConfig(
            text_config=text_config().to_dict(),
            vision_config=vision.to_dict(),
            projection_dim=8,
        )
    )


def stable_diffusion(folder, strict=False):
    """Saves a pipeline. strict: its safety checker flags about half of the pictures,
    otherwise none."""
    torch.manual_seed(0)
    pipe = diffusers.StableDiffusionPipeline(
        safety_checker=checker(),
        vae=autoencoder(),
        text_encoder=transformers.CLIPTextModel(text_config()),
        tokenizer=tokenizer(f"{folder}-tokenizer"),
        unet=unet(16),
        scheduler=diffusers.DDIMScheduler(
            **SCHEDULE, clip_sample=False, set_alpha_to_one=False
        ),
        feature_extractor=transformers.CLIPImageProcessor(
            size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
        ),
    )
    with torch.no_grad():
        pipe.safety_checker.concept_embeds_weights.fill_(2.0)  # cosines are at most 1
        pipe.safety_checker.special_care_embeds_weights.fill_(2.0)
        if strict:
            _flag_half(pipe)
    pipe.save_pretrained(folder)
    return str(folder)


def _flag_half(pipe):
    """Draws eight pictures, and moves the checker's first concept between them."""
    checker = pipe.safety_checker
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
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=transformers.CLIPTextModel(text_config(**more)),
        text_encoder_2=transformers.CLIPTextModelWithProjection(text_config(**more)),
        tokenizer=tokenizer(f"{folder}-tokenizer"),
        tokenizer_2=tokenizer(f"{folder}-tokenizer"),
        unet=unet(32, **extra),
        scheduler=diffusers.EulerDiscreteScheduler(
            **SCHEDULE, timestep_spacing="leading"
        ),
        add_watermarker=False,
    )
    pipe.save_pretrained(folder)
    path = f"{folder}-lightning.safetensors"
    save_file(unet(32, **extra).state_dict(), path)
    return str(folder), path
