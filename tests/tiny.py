"""Small pipelines of random weights, for every kind of prior; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from conftest import fill
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EulerDiscreteScheduler,
    LDMPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)

from dap.priors import Prior

SCHEDULE = {"beta_end": 0.004, "clip_sample": False}  # see conftest.build_pipeline


def vae() -> AutoencoderKL:
    """RGB images of 32 x 32 to latents of 4 x 8 x 8."""
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, sample_size=32, block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=4,
    )  # fmt: skip


def tokenizer() -> Any:
    """CLIP's, with no merges: every character is a token."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=48)


def stable_diffusion(*, v: bool = False, scheduler: Any = None) -> StableDiffusionPipeline:
    """As version 1.5, or, with ``v``, as 2.1: heads by level, linear projections, v-prediction."""
    from transformers import CLIPTextConfig, CLIPTextModel

    words = tokenizer()
    shape = {"attention_head_dim": (2, 4), "use_linear_projection": True} if v else {"attention_head_dim": 4}
    with torch.random.fork_rng(devices=[]):
        denoiser = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16, norm_num_groups=4, **shape,
        )  # fmt: skip
        text_shape = CLIPTextConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=48, eos_token_id=len(words) - 1, bos_token_id=len(words) - 2,
        )  # fmt: skip
        text = CLIPTextModel(text_shape)
        autoencoder = vae()
    for seed, module in enumerate((denoiser, text, autoencoder)):
        fill(module, seed)
    predicts = "v_prediction" if v else "epsilon"
    usual = DDIMScheduler(set_alpha_to_one=False, steps_offset=1, prediction_type=predicts, **SCHEDULE)
    pipeline = StableDiffusionPipeline(
        autoencoder, text, words, denoiser, scheduler or usual, None, None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stable_diffusion_xl(*, scheduler: Any = None) -> StableDiffusionXLPipeline:
    """Two text encoders, of which the second pools, and a U-Net that also reads sizes."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    words = tokenizer()
    shape = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=48, eos_token_id=len(words) - 1, bos_token_id=len(words) - 2, projection_dim=24,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        denoiser = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32, norm_num_groups=4, attention_head_dim=(2, 4), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=24 + 6 * 8,
        )  # fmt: skip
        texts = CLIPTextModel(shape), CLIPTextModelWithProjection(shape)
        autoencoder = vae()
    for seed, module in enumerate((denoiser, *texts, autoencoder)):
        fill(module, seed)
    usual = EulerDiscreteScheduler(beta_start=0.0001, beta_end=0.004)
    pipeline = StableDiffusionXLPipeline(
        autoencoder, *texts, words, words, denoiser, scheduler or usual, add_watermarker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def unet(channels: int, size: int, *, classes: int | None = None) -> UNet2DModel:
    """Two levels, attention in the second."""
    with torch.random.fork_rng(devices=[]):
        made = UNet2DModel(
            sample_size=size, in_channels=channels, out_channels=channels, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1, norm_num_groups=4, attention_head_dim=4, num_class_embeds=classes,
        )  # fmt: skip
    fill(made, 5)
    return made


def pixels(*, classes: int | None = None) -> DDPMPipeline:
    """Grey images of 16 x 16, denoised as they are."""
    pipeline = DDPMPipeline(unet(1, 16, classes=classes), DDPMScheduler(**SCHEDULE | {"clip_sample": True}))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latent(*, classes: int | None = None) -> LDMPipeline:
    """RGB images of 32 x 32 behind a VQ model; latents of 4 x 8 x 8."""
    with torch.random.fork_rng(devices=[]):
        vqvae = VQModel(
            in_channels=3, out_channels=3, latent_channels=4, num_vq_embeddings=32, block_out_channels=(8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=4,
        )  # fmt: skip
    fill(vqvae, 6)
    pipeline = LDMPipeline(vqvae, unet(4, 8, classes=classes), DDIMScheduler(**SCHEDULE))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class StubPrior(Prior):
    """A prior for tests: a subclass gives ``denoise`` and the scheduler, and the rest cannot be used."""

    name, latent_shape, image_shape, block_names = "stub", (1, 1, 1), (1, 1, 1), ("block 1",)
    slot_bytes, device, dtype = 1, torch.device("cpu"), torch.float32

    def labels_of(self, class_names):
        raise NotImplementedError

    def describe(self):
        raise NotImplementedError

    def encode(self, images):
        raise NotImplementedError

    def decode_pixels(self, latents):
        raise NotImplementedError

    def scheduler(self, name, num_inference_steps):
        raise NotImplementedError

    def denoise(self, sample, timestep, labels, *, guidance_scale=1.0, taps=(), through=False, condition=None):
        raise NotImplementedError
