"""LLM-CXR: images as codes of a VQ-GAN (taming-transformers) that are ordinary words to a GPT-NeoX (transformers)."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from taming.models.vqgan import VQModel
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from tools.originals.layout import Layout, Rule, logits, made, rule, sampled, shapes_of, words

WORDS, CODES = 50281, 1024
IMAGE_SIZE, GRID = 64, 16
LAYERS, CONTEXT = 3, 512
RUN = "2023-09-05T13-56-50_mimic-cxr-256-txvloss"
CONFIG_FILE, WEIGHTS_FILE = f"vqgan/{RUN}-project-compat.yaml", f"vqgan/{RUN}-4e-compat.ckpt"


def vqgan_config() -> dict[str, Any]:
    """The authors' YAML at small size: three levels instead of five, attention at 16 x 16 as in the original."""
    autoencoder = {
        "double_z": False,
        "z_channels": 32,
        "resolution": IMAGE_SIZE,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 2],
        "num_res_blocks": 2,
        "attn_resolutions": [GRID],
        "dropout": 0.0,
    }
    loss = {
        "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
        "params": {"disc_conditional": False, "disc_in_channels": 3, "disc_start": 10000, "disc_weight": 0.8},
    }
    params = {"embed_dim": 16, "n_embed": CODES, "ddconfig": autoencoder, "lossconfig": loss}
    return {"model": {"base_learning_rate": 4.5e-06, "target": "taming.models.vqgan.VQModel", "params": params}}


def vqgan() -> VQModel:
    """The package's model; its training loss is left out, since building it fetches VGG weights."""
    params = vqgan_config()["model"]["params"] | {"lossconfig": {"target": "torch.nn.Identity"}}
    return VQModel(**params)


def vqgan_rule(key: str, shape: Any) -> Rule:
    """As elsewhere, with a codebook as wide as what the encoder yields, so that no two codes are nearly as close."""
    return [0.0, 3.0] if key == "quantize.embedding.weight" else rule(key, shape)


def neox_config() -> GPTNeoXConfig:
    """dolly-v2-3b's shape at four heads of 16, a quarter of each rotated."""
    return GPTNeoXConfig(
        vocab_size=WORDS + CODES,
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=256,
        rotary_pct=0.25,
        max_position_embeddings=CONTEXT,
        use_parallel_residual=True,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )


def neox_json() -> dict[str, Any]:
    """What transformers 4.28 wrote."""
    later = ("rope_scaling", "attention_bias", "attention_dropout", "hidden_dropout", "classifier_dropout")
    written = {key: value for key, value in neox_config().to_dict().items() if key not in later}
    return written | {"architectures": ["GPTNeoXForCausalLM"], "torch_dtype": "float32"}


def neox_rule(key: str, shape: Any) -> Rule:
    """Weights as elsewhere; the masks that transformers 4.28 stored beside them."""
    if key.endswith("attention.bias"):
        return ["causal"]
    if key.endswith("attention.masked_bias"):
        return ["full", -1e9]
    return rule(key, shape)


def describe() -> Layout:
    """Both parts: `llm` in one file with the old buffers, `vqgan` a training checkpoint with a discriminator in it."""
    packages = ("torch", "transformers", "taming-transformers-rom1504", "pytorch-lightning")
    layout = Layout("llm-cxr", "LLM-CXR: GPT-NeoX by transformers 4.36.2, VQ-GAN by taming-transformers", packages)
    language = dict(shapes_of(GPTNeoXForCausalLM(neox_config())))
    for layer in range(LAYERS):
        stem = f"gpt_neox.layers.{layer}.attention"
        language[f"{stem}.bias"] = (1, 1, CONTEXT, CONTEXT)
        language[f"{stem}.masked_bias"] = ()
        language[f"{stem}.rotary_emb.inv_freq"] = (2,)
    layout.json("llm/config.json", neox_json())
    layout.tensors("llm/pytorch_model.bin", language, neox_rule)
    layout.text(CONFIG_FILE, yaml.safe_dump(vqgan_config()))
    unused = {"loss.discriminator.main.0.weight": (8, 3, 4, 4), "loss.discriminator.main.0.bias": (8,)}
    layout.tensors(
        WEIGHTS_FILE,
        shapes_of(vqgan()) | unused,
        vqgan_rule,
        inside="state_dict",
        beside={"epoch": 4, "global_step": 100},
    )
    return layout


def load(root: Path) -> tuple[GPTNeoXForCausalLM, VQModel]:
    """Both originals from the files on disk; only the loss and the old buffers may be left over."""
    language, told = GPTNeoXForCausalLM.from_pretrained(root / "llm", output_loading_info=True)
    if told["missing_keys"] or told["unexpected_keys"]:
        raise ValueError(f"not the original's keys: {told}")
    images = vqgan()
    left = images.load_state_dict(torch.load(root / WEIGHTS_FILE, weights_only=True)["state_dict"], strict=False)
    if left.missing_keys or any(not key.startswith("loss.") for key in left.unexpected_keys):
        raise ValueError(f"not the original's keys: {left}")
    return language.eval(), images.eval()


def code_margin(images: VQModel, pixels: torch.Tensor) -> float:
    """How much nearer the chosen code is than the next, at the closest call."""
    latent = images.quant_conv(images.encoder(pixels)).permute(0, 2, 3, 1).reshape(-1, 16)
    nearest = torch.cdist(latent.double(), images.quantize.embedding.weight.double()).sort(dim=1).values
    return float((nearest[:, 1] - nearest[:, 0]).min())


@torch.no_grad()
def record() -> dict[str, Any]:
    """The golden: codes of an image, an image of codes, and logits of a prompt that holds those codes."""
    layout = describe()
    rng = np.random.Generator(np.random.PCG64(9))
    with TemporaryDirectory() as name:
        language, images = load(layout.golden().materialise(Path(name)))
    layout.case("encode", {"pixel_values": made("pixels", (1, 3, IMAGE_SIZE, IMAGE_SIZE), scale=1.0)})
    pixels = torch.from_numpy(layout.golden().input("encode", "pixel_values"))
    codes = images.encode(pixels)[2][2].reshape(-1)
    if code_margin(images, pixels) < 1e-4:
        raise ValueError("two codes are nearly as close; change the seed")
    layout.output("codes", codes.tolist())
    layout.output("latent", sampled(images.quant_conv(images.encoder(pixels)), every=13))
    drawn = words(rng, GRID * GRID, 0, CODES)
    layout.case("decode", {"codes": drawn}, "the image before clipping to [-1, 1]")
    entries = images.quantize.get_codebook_entry(torch.tensor(drawn), (1, GRID, GRID, 16))
    layout.output("image", sampled(images.decode(entries), every=13))
    prompt = [*words(rng, 6, 0, WORDS), *(codes + WORDS).tolist(), *words(rng, 5, 0, WORDS)]
    layout.case("report", {"input_ids": prompt}, "the codes of `encode`, each plus 50281, inside a prompt")
    answer = language(input_ids=torch.tensor([prompt])).logits[0]
    layout.output("logits", logits(answer, special=(0, 50277, 50278, 50279, 50280, WORDS), every=6))
    return layout.data
