"""Small pipelines of random weights, for every kind of prior; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from conftest import fill
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LDMPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)

from dap.priors import Prior

SCHEDULE = {"beta_end": 0.004, "clip_sample": False}  # see conftest.build_pipeline


def vae(**options: Any) -> AutoencoderKL:
    """RGB images of 32 x 32 to latents of 4 x 8 x 8."""
    return AutoencoderKL(
        **options,
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


def stable_diffusion(*, v: bool = False, scheduler: Any = None, **options: Any) -> StableDiffusionPipeline:
    """As version 1.5, or, with ``v``, as 2.1: heads by level, linear projections, v-prediction."""
    words = tokenizer()
    shape = {"attention_head_dim": (2, 4), "use_linear_projection": True} if v else {"attention_head_dim": 4}
    with torch.random.fork_rng(devices=[]):
        denoiser = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16, norm_num_groups=4, **shape, **options,
        )  # fmt: skip
        text = clip(words)
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


def clip(words: Any, *, projected: bool = False) -> Any:
    """A text encoder of CLIP's kind of width 16; ``projected``: with the projection of pooled embeddings."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    shape = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=48, eos_token_id=len(words) - 1, bos_token_id=len(words) - 2, projection_dim=8,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        return (CLIPTextModelWithProjection if projected else CLIPTextModel)(shape)


def stable_diffusion_xl(*, scheduler: Any = None, **options: Any) -> StableDiffusionXLPipeline:
    """As SDXL base: two text encoders, a pooled embedding and sizes as added conditions, Euler's steps."""
    words, second = tokenizer(), tokenizer()
    with torch.random.fork_rng(devices=[]):
        denoiser = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4), use_linear_projection=True,
            transformer_layers_per_block=(1, 2), cross_attention_dim=32, norm_num_groups=4,
            addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=8 + 6 * 4,
            **options,
        )  # fmt: skip
        autoencoder = vae()
    encoders = clip(words), clip(second, projected=True)
    for seed, module in enumerate((denoiser, *encoders, autoencoder)):
        fill(module, seed)
    usual = EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, beta_end=0.004)
    pipeline = StableDiffusionXLPipeline(
        autoencoder, *encoders, words, second, denoiser, scheduler or usual, add_watermarker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def t5(width: int = 16) -> tuple[Any, Any]:
    """A tokenizer of T5's kind, with a token for each letter, and an encoder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    letters = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((chr(code), -1.0) for code in range(33, 127)),
        ("▁", -1.0),
    ]
    rules = Tokenizer(models.Unigram(letters, unk_id=2))
    rules.pre_tokenizer = pre_tokenizers.Metaspace()
    rules.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    words = T5TokenizerFast(tokenizer_object=rules, extra_ids=0, model_max_length=512)
    shape = T5Config(vocab_size=len(letters), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    with torch.random.fork_rng(devices=[]):
        return words, T5EncoderModel(shape)


def quiet(pipeline: Any, *modules: Any) -> Any:
    """Return a pipeline without a bar, its modules filled with small random weights."""
    for seed, module in enumerate(modules):
        fill(module.eval(), seed)  # as loaded pipelines are: T5 has dropout
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stable_diffusion_3(*, scheduler: Any = None, t5_too: bool = True) -> StableDiffusion3Pipeline:
    """As SD3.5: two CLIP encoders and T5, joint blocks, flow matching with shifted steps."""
    first, second = tokenizer(), tokenizer()
    with torch.random.fork_rng(devices=[]):
        denoiser = SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=16,
            pos_embed_max_size=8, qk_norm="rms_norm", dual_attention_layers=(0,),
        )  # fmt: skip
        autoencoder = vae(shift_factor=0.06)
    words, encoder = t5(32) if t5_too else (None, None)
    encoders = clip(first, projected=True), clip(second, projected=True)
    pipeline = StableDiffusion3Pipeline(
        denoiser, scheduler or FlowMatchEulerDiscreteScheduler(shift=3.0), autoencoder, encoders[0], first, encoders[1],
        second, encoder, words,
    )  # fmt: skip
    return quiet(pipeline, denoiser, *encoders, autoencoder, *([encoder] if encoder is not None else []))


def flux(*, guided: bool = True) -> FluxPipeline:
    """As FLUX.1-dev; or as schnell, without the input for guidance and the shift by the image's size."""
    words, (more_words, encoder) = tokenizer(), t5()
    with torch.random.fork_rng(devices=[]):
        denoiser = FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=16, pooled_projection_dim=16, guidance_embeds=guided, axes_dims_rope=(2, 2, 4),
        )  # fmt: skip
        autoencoder = vae(shift_factor=0.11)
    text = clip(words)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guided)
    pipeline = FluxPipeline(scheduler, autoencoder, text, words, encoder, more_words, denoiser)
    return quiet(pipeline, denoiser, text, encoder, autoencoder)


def pixart(*, sigma: bool = False) -> PixArtAlphaPipeline | PixArtSigmaPipeline:
    """As PixArt-α or PixArt-Σ: a DiT with cross-attention to T5 that predicts a variance too."""
    words, encoder = t5()
    with torch.random.fork_rng(devices=[]):
        denoiser = PixArtTransformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=8,
            num_attention_heads=2, cross_attention_dim=16, caption_channels=16,
        )  # fmt: skip
        autoencoder = vae()
    kind = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    pipeline = kind(words, encoder, autoencoder, denoiser, DPMSolverMultistepScheduler(beta_end=0.004))
    return quiet(pipeline, denoiser, encoder, autoencoder)


def gemma(width: int = 16) -> tuple[Any, Any]:
    """A tokenizer of Gemma's kind, with a token for each letter, and a Gemma 2 of one layer."""
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n", *(chr(code) for code in range(33, 127))]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    words = GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=4096)
    shape = Gemma2Config(
        vocab_size=len(words), hidden_size=width, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        return words, Gemma2Model(shape)


def sana(*, scheduler: Any = None) -> SanaPipeline:
    """As Sana: linear attention under Gemma, a deep autoencoder, DPM-Solver++ for flow matching."""
    words, encoder = gemma()
    with torch.random.fork_rng(devices=[]):
        denoiser = SanaTransformer2DModel(
            sample_size=8, patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=2, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
            caption_channels=16, timestep_scale=0.5,
        )  # fmt: skip
        autoencoder = AutoencoderDC(
            latent_channels=4, attention_head_dim=4, encoder_block_out_channels=(8, 16, 16),
            decoder_block_out_channels=(8, 16, 16), encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"), encoder_layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1), encoder_qkv_multiscales=((), (), (5,)),
            decoder_qkv_multiscales=((), (), (5,)), upsample_block_type="interpolate", downsample_block_type="Conv",
            scaling_factor=0.41407,
        )  # fmt: skip
    usual = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    pipeline = SanaPipeline(words, encoder, autoencoder, denoiser, scheduler or usual)
    return quiet(pipeline, denoiser, encoder, autoencoder)


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
