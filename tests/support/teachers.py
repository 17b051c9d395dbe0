"""Teachers with random weights in the real formats, saved by diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from diffusers.pipelines import LDMPipeline

from gsd_cli.base.atomic import write_json
from gsd_cli.base.storage import read_json
from gsd_cli.core.models.ddp_unet import DdpUNet
from tests.support.guided import GuidedUNet

PIXELS = DDPMScheduler(variance_type="fixed_large", clip_sample=True)

CIFAR10: dict[str, Any] = {
    "sample_size": 32, "block_out_channels": (128, 256, 256, 256), "layers_per_block": 2, "norm_eps": 1e-6,
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": None,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
"""google/ddpm-cifar10-32 at full size: 35,746,307 parameters."""

FACES: dict[str, Any] = {
    **CIFAR10, "sample_size": 64, "block_out_channels": (32, 32, 64, 64, 128, 128), "attention_head_dim": None,
    "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
}  # fmt: skip
"""google/ddpm-ema-{celebahq,bedroom,church}-256 at a quarter of the width and of the side."""

SMALL: dict[str, Any] = {
    "sample_size": 16, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (8, 16),
    "norm_num_groups": 8, "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip

TINY: dict[str, Any] = {
    **SMALL, "sample_size": 8, "block_out_channels": (4, 4), "norm_num_groups": 2, "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
}  # fmt: skip
"""5,000 parameters, for tests that count calls or make many."""

NCSNPP: dict[str, Any] = {
    "sample_size": 16, "layers_per_block": 1, "block_out_channels": (32, 32), "norm_num_groups": None,
    "attention_head_dim": None, "center_input_sample": True, "time_embedding_type": "fourier",
    "mid_block_scale_factor": 2**0.5, "norm_eps": 1e-6,
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
}  # fmt: skip
"""google/ncsnpp-celebahq-256, small."""

LATENT: dict[str, Any] = {**SMALL, "in_channels": 3, "out_channels": 3}
"""CompVis/ldm-celebahq-256's UNet, small: three latent channels."""

FIRST_STAGE: dict[str, Any] = {
    "block_out_channels": (8, 16), "latent_channels": 3, "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip


def unet(config: dict[str, Any], seed: int = 0, **changes: Any) -> UNet2DModel:
    """A network with random weights."""
    torch.manual_seed(seed)
    return UNet2DModel(**{**config, **changes}).eval().requires_grad_(False)


def flat(folder: Path, net: UNet2DModel) -> Path:
    """config.json, weights and scheduler_config.json in one folder, as in google/ddpm-cifar10-32."""
    net.save_pretrained(folder)
    PIXELS.save_pretrained(folder)
    DDPMPipeline(net, PIXELS).save_config(folder)
    return folder


def pipeline(folder: Path, net: UNet2DModel, *, safe: bool = True) -> Path:
    """A pipeline folder with unet/ and scheduler/."""
    DDPMPipeline(net, PIXELS).save_pretrained(folder, safe_serialization=safe)
    return folder


def latent_pipeline(folder: Path, net: UNet2DModel, kind: str = "VQModel") -> Path:
    """A latent-diffusion folder like CompVis/ldm-celebahq-256: vqvae/, unet/, scheduler/."""
    torch.manual_seed(5)
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195, clip_sample=False)
    if kind == "VQModel":
        stage: Any = VQModel(**FIRST_STAGE, num_vq_embeddings=64, scaling_factor=1.0)
    else:
        stage = AutoencoderKL(**FIRST_STAGE)
    LDMPipeline(stage.eval(), net, scheduler).save_pretrained(folder)
    return folder


TEXT: dict[str, Any] = {
    "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
    "cross_attention_dim": 8, "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
"""Stable Diffusion 1.5's UNet, small."""

TEXT_XL: dict[str, Any] = {
    **TEXT, "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 6, "use_linear_projection": True,
    "transformer_layers_per_block": (1, 1),
}  # fmt: skip
"""SDXL's UNet, small: it also takes a vector of the whole text, and the image's size."""


TEXT_3: dict[str, Any] = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 4,
    "num_attention_heads": 2, "joint_attention_dim": 10, "caption_projection_dim": 8, "pooled_projection_dim": 12,
    "pos_embed_max_size": 6,
}  # fmt: skip
"""Stable Diffusion 3's transformer, small."""


TEXT_FLUX: dict[str, Any] = {
    "patch_size": 1, "in_channels": 16, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 8,
    "num_attention_heads": 2, "joint_attention_dim": 10, "pooled_projection_dim": 8, "axes_dims_rope": (2, 2, 4),
}  # fmt: skip
"""FLUX.1 schnell's transformer, small."""

TEXT_SANA: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 3,
    "num_cross_attention_heads": 2, "cross_attention_head_dim": 4, "cross_attention_dim": 8, "caption_channels": 8,
    "sample_size": 8,
}  # fmt: skip
"""SANA's transformer, small."""

DEEP_STAGE: dict[str, Any] = {
    "latent_channels": 4, "attention_head_dim": 4, "scaling_factor": 0.41407,
    "encoder_block_types": ("ResBlock", "EfficientViTBlock"), "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
    "encoder_block_out_channels": (8, 16), "decoder_block_out_channels": (8, 16),
    "encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1),
    "encoder_qkv_multiscales": ((), (3,)), "decoder_qkv_multiscales": ((), (3,)),
}  # fmt: skip
"""SANA's autoencoder, small: it makes sides half as large."""


def flux(seed: int = 0, **changes: Any) -> FluxTransformer2DModel:
    """A network with random weights for latents of 8 x 8, which its config names as gsd's own do."""
    torch.manual_seed(seed)
    net = FluxTransformer2DModel(**{**TEXT_FLUX, **changes})
    net.register_to_config(sample_size=8)
    return net.eval().requires_grad_(False)


def sana(seed: int = 0, **changes: Any) -> SanaTransformer2DModel:
    """A network with random weights."""
    torch.manual_seed(seed)
    return SanaTransformer2DModel(**{**TEXT_SANA, **changes}).eval().requires_grad_(False)


TOKENS = 12
"""The tokens of a text that the text encoders here take."""
FLUX_KINDS = ("FLUX", "FLUX-dev")
"""FLUX.1 schnell, and dev: with a guidance embedding and a dynamic shift."""


def text_pipeline(folder: Path, kind: str) -> Path:
    """A folder like that of Stable Diffusion ("SD", "SD3"), SDXL, FLUX or SANA: network, vae/ and scheduler/, no text
    encoders."""
    torch.manual_seed(4)
    if kind in ("SD", "SDXL"):
        UNet2DConditionModel(**(TEXT_XL if kind == "SDXL" else TEXT)).eval().save_pretrained(folder / "unet")
    else:
        _transformer(kind).eval().save_pretrained(folder / "transformer")
    stage: dict[str, Any] = {**FIRST_STAGE, "latent_channels": 4, "scaling_factor": 0.13025}
    stage |= {"shift_factor": 0.06} if kind in ("SD3", *FLUX_KINDS) else {}
    autoencoder: Any = AutoencoderDC(**DEEP_STAGE) if kind == "SANA" else AutoencoderKL(**stage)
    autoencoder.eval().save_pretrained(folder / "vae")
    _text_scheduler(kind).save_pretrained(folder / "scheduler")
    return folder


def _transformer(kind: str) -> Any:
    if kind == "SD3":
        return SD3Transformer2DModel(**TEXT_3)
    return sana(4) if kind == "SANA" else flux(4, guidance_embeds=kind == "FLUX-dev")


def _text_scheduler(kind: str) -> Any:
    if kind == "SANA":
        return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=4.0)
    if kind == "FLUX-dev":
        return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    if kind in ("SD3", "FLUX"):
        return FlowMatchEulerDiscreteScheduler(shift=3.0 if kind == "SD3" else 1.0)
    betas: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return DDIMScheduler(**betas, clip_sample=False, steps_offset=1)


def with_text_encoders(folder: Path, kind: str) -> Path:
    """`text_pipeline` with text encoders and tokenizers of random weights, saved by transformers."""
    text_pipeline(folder, kind)
    sizes = {"SD": [8], "SDXL": [4, 4], "SD3": [4, 4], "SANA": []}.get(kind, [8])
    for place, (size, end) in enumerate(zip(sizes, ("", "_2"), strict=False)):
        _save_clip(folder, end, size, place, projected=bool(end) or kind == "SD3")
    if kind == "SD3" or kind in FLUX_KINDS:
        _save_t5(folder, "_3" if kind == "SD3" else "_2")
    if kind == "SANA":
        _save_gemma(folder)
    return folder


def _save_clip(folder: Path, end: str, size: int, seed: int, *, projected: bool) -> None:
    import transformers

    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    torch.manual_seed(seed)
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=size, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=TOKENS, projection_dim=6, bos_token_id=len(words) - 2, eos_token_id=len(words) - 1,
    )  # fmt: skip
    made = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    made(config).eval().save_pretrained(folder / f"text_encoder{end}")
    tokenizer = transformers.CLIPTokenizer(
        vocab={word: k for k, word in enumerate(words)}, merges=[], model_max_length=TOKENS
    )
    tokenizer.save_pretrained(folder / f"tokenizer{end}")


def _save_t5(folder: Path, end: str) -> None:
    import transformers

    words = ["<pad>", "</s>", "<unk>", *(chr(code) for code in range(33, 127)), "\u2581"]
    torch.manual_seed(3)
    config = transformers.T5Config(
        vocab_size=len(words), d_model=10, d_kv=4, d_ff=8, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    transformers.T5EncoderModel(config).eval().save_pretrained(folder / f"text_encoder{end}")
    tokenizer = transformers.T5TokenizerFast(vocab=[(word, -1.0) for word in words], extra_ids=0)
    tokenizer.save_pretrained(folder / f"tokenizer{end}")


def _save_gemma(folder: Path) -> None:
    import transformers

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(chr(code) for code in range(33, 127)), "\u2581", "\n"]
    torch.manual_seed(6)
    config = transformers.Gemma2Config(
        vocab_size=len(words), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=4, max_position_embeddings=4096,
    )  # fmt: skip
    transformers.Gemma2Model(config).eval().save_pretrained(folder / "text_encoder")
    tokenizer = transformers.GemmaTokenizerFast(vocab={word: k for k, word in enumerate(words)}, merges=[])
    tokenizer.save_pretrained(folder / "tokenizer")


def with_scheduler(folder: Path, net: UNet2DModel, scheduler: Any) -> Path:
    """A flat folder whose scheduler is of any kind."""
    net.save_pretrained(folder)
    scheduler.save_pretrained(folder)
    DDPMPipeline(net, scheduler).save_config(folder)
    return folder


DIT: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 4, "out_channels": 8, "num_layers": 4,
    "sample_size": 8, "num_embeds_ada_norm": 3, "norm_num_groups": 2,
}  # fmt: skip
"""facebook/DiT-XL-2-256's transformer, small: four latent channels, learned sigma, three classes."""


def dit(seed: int = 0, **changes: Any) -> DiTTransformer2DModel:
    """A network with random weights."""
    torch.manual_seed(seed)
    return DiTTransformer2DModel(**{**DIT, **changes}).eval().requires_grad_(False)


def dit_pipeline(folder: Path, scheduler: Any = None) -> Path:
    """A latent-diffusion folder like facebook/DiT-XL-2-256: transformer/, vae/, scheduler/."""
    net = dit()
    torch.manual_seed(5)
    stage = AutoencoderKL(**{**FIRST_STAGE, "latent_channels": 4}).eval()
    scheduler = scheduler or DDIMScheduler(beta_schedule="linear", clip_sample=False)
    DiTPipeline(net, stage, scheduler).save_pretrained(folder)
    index = read_json(folder / "model_index.json")
    names = ("tench, Tinca tinca", "crane", "crane, bird")
    write_json(folder / "model_index.json", {**index, "id2label": {str(k): name for k, name in enumerate(names)}})
    return folder


DDP: dict[str, Any] = {
    "in_channels": 1, "out_channels": 1, "sample_size": 16, "time_width": 8, "widths": [8, 8, 16],
    "attentions": [[False, 2, 4, 4], [True, 2, 4, 4], [True, 2, 4, 4]],
}  # fmt: skip


def ddp_file(path: Path, betas: torch.Tensor | None = None, weights: torch.Tensor | None = None, seed: int = 0) -> Path:
    """A checkpoint as denoising_diffusion_pytorch's trainer writes it; the average is the network of `seed`."""
    torch.manual_seed(seed)
    average, newest = DdpUNet(DDP), DdpUNet(DDP)
    betas = torch.linspace(1e-4, 0.02, 1000) if betas is None else betas
    bar = (1 - betas.double()).cumprod(0)
    weights = bar.float() if weights is None else weights  # of a network that predicts v: SNR / (SNR + 1)

    def diffusion(net: DdpUNet, prefix: str) -> dict[str, torch.Tensor]:
        state = {f"{prefix}model.{name}": value for name, value in net.state_dict().items()}
        return state | {f"{prefix}betas": betas, f"{prefix}loss_weight": weights}

    ema = diffusion(newest, "online_model.") | diffusion(average, "ema_model.") | {"step": torch.tensor(3)}
    whole = {
        "step": 3,
        "model": diffusion(newest, ""),
        "opt": {"state": {}},
        "ema": ema,
        "scaler": None,
        "version": "2",
    }
    torch.save(whole, path)
    return path


def guided_file(path: Path, **changes: Any) -> Path:
    """A state dict of guided-diffusion's UNet."""
    torch.manual_seed(0)
    torch.save(GuidedUNet(**changes).state_dict(), path)
    return path


def sentence_encoder(folder: Path, size: int = 8) -> Path:
    """A BertModel with random weights and its tokenizer of a few words, as sentence-transformers store them: at most 16
    tokens."""
    import transformers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "red", "green", "blue", "runs", "to"]
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=size, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16,
    )  # fmt: skip
    transformers.BertModel(config).eval().save_pretrained(folder)
    vocabulary = {word: k for k, word in enumerate(words)}
    transformers.BertTokenizerFast(vocab=vocabulary, model_max_length=512).save_pretrained(folder)
    return folder
