"""`llm-cxr`: LLM-CXR (Lee et al. 2024), dolly-v2-3b that reads and writes pictures as VQ-GAN codes.

    cxrbench models add llm-cxr --path CKPTS      # the folder that holds both unpacked archives

Read off hyn2028/llm-cxr 854a233 (training/consts.py, training/generate.py, training/mimiccxr_vq_dataset.py,
generate_eval.py, encode_cxr_all.py, decode_cxr_all.py) and taming-transformers. Real weights have never been run here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cxrbench.errors import CxrbenchError
from cxrbench.models import llava_shared as llava
from cxrbench.models import network
from cxrbench.models.adapter import IMAGE, LoadSettings
from cxrbench.models.base import ModelCard
from cxrbench.models.checkpoint import read_json
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.models.keys import Drop, Row, Source, to
from cxrbench.models.llm_cxr_files import find_parts, read_sizes
from cxrbench.models.llm_cxr_words import FROM_IMAGE, INTRO, TO_IMAGE
from cxrbench.models.published import sections_used
from cxrbench.models.published_pixels import CentreSquare
from cxrbench.models.released import NEVER_RUN, PATH, Asked, Opened, ReleasedModel
from cxrbench.models.shards import Shards, Together, find_files
from cxrbench.models.tokens import StandIn, read_tokenizer
from cxrbench.types import Generation, Message, Request, RequestKind, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORDS = 50281
"""Length of the tokenizer; the codes of pictures follow (CXR_VQ_TOKENIZER_LEN)."""

END = "### End"
RANDOM = "random"
EVAL = "hyn2028/llm-cxr 854a233, generate_eval.py"

NEOX = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rotary_pct",
    "layer_norm_eps",
    "hidden_act",
    "use_parallel_residual",
)

FULL_SIZES: Mapping[str, Any] = {
    "ch": 128,
    "ch_mult": [1, 1, 2, 2, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [16],
    "in_channels": 3,
    "out_ch": 3,
    "resolution": 256,
    "z_channels": 256,
    "n_embed": 1024,
    "embed_dim": 256,
}
"""The VQ-GAN: 256 px to 16 x 16 codes of 1,024 (taming's configuration for 1,024 codes)."""


def rows() -> tuple[Row, ...]:
    """The key map: `llm/` is GPT-NeoX, `vq/` the VQ-GAN."""
    from transformers import GPTNeoXForCausalLM

    head = next(iter(GPTNeoXForCausalLM._tied_weights_keys)).removesuffix(".weight")
    return (
        Drop(r"llm/.*\.attention\.(?:bias|masked_bias|rotary_emb\.inv_freq)", llava.WORKED_OUT),
        to(r"llm/(gpt_neox\..+)", r"\1"),
        to(r"llm/embed_out\.weight", f"{head}.weight"),
        Drop(r"vq/loss\..+", "the VQ-GAN's discriminator and perceptual loss: used in training only"),
        to(r"vq/(.+)", r"vqgan.\1"),
    )


class LlmCxr(ReleasedModel):
    """See `cxrbench.models.released.ReleasedModel`."""

    name: ClassVar[str] = "llm-cxr"
    bos: ClassVar[bool] = False
    kinds: ClassVar[frozenset[RequestKind]] = frozenset({"generate", "score_options", "generate_image"})
    targets: ClassVar[tuple[str, ...]] = ("impression",)
    settings: ClassVar[Mapping[str, str]] = {
        "target": "impression",
        "instruction": "which of the authors' ten wordings, 1 to 10, or random (by the sample's seed, the default)",
    }
    places: ClassVar[Mapping[str, str]] = {
        PATH: "the folder that holds both unpacked archives, language model and VQ-GAN, or of the converted checkpoint"
    }
    CARD: ClassVar[ModelCard] = ModelCard(
        name="llm-cxr",
        about="LLM-CXR, VQ-GAN codes (256 px, 16 x 16) and dolly-v2-3b, 2.85 billion parameters",
        source="archives on Google Drive, linked from https://github.com/hyn2028/llm-cxr",
        revision="llmcxr_mimic-cxr-256-txvloss-medvqa-stage1_2 and vqgan_mimic-cxr-256-txvloss; the ones you have are"
        " named by their hashes",
        licence="Apache-2.0 (the code); the archives state none",
        citation="Lee et al. 2024, LLM-CXR, ICLR, arXiv:2305.11490",
        trained_on=("MIMIC-CXR train, images and reports in both directions", "MIMIC-CXR VQA", "databricks-dolly-15k"),
        targets=("impression",),
        inputs=("the key image", "for a picture (generate_image): the impression, else the findings"),
        published=(
            "rexrank-mimic/LLM-CXR",
            "rexrank-iu/LLM-CXR",
            "its paper's own tables were not found in any source that could be read",
        ),
        notes=NEVER_RUN,
    )

    def __init__(self, options: Any) -> None:
        chosen = options.extra.get("instruction", RANDOM)
        if chosen != RANDOM and not (chosen.isdecimal() and 1 <= int(chosen) <= len(FROM_IMAGE)):
            raise CxrbenchError(
                f"instruction must be 1 to {len(FROM_IMAGE)} or random, not {chosen!r}", where="--set instruction="
            )
        self.instruction = chosen
        super().__init__(options)

    def network_class(self) -> Any:
        """Stock GPT-NeoX with a VQ-GAN in front."""
        from cxrbench.models.llm_cxr_net import LlmCxrNet

        return LlmCxrNet

    def open_original(self, folder: Path) -> Opened:
        """Both archives: the language model's folder and the VQ-GAN's file beside its configuration."""
        parts = find_parts(folder, self.CARD.about)
        file = parts.llm / "config.json"
        body, sizes = read_json(file), read_sizes(parts.sizes)
        stated = llava.need(body, NEOX, file)
        if stated["vocab_size"] != WORDS + sizes["n_embed"]:
            raise CxrbenchError(
                f"the language model has {stated['vocab_size']:,} tokens, and {WORDS:,} words and"
                f" {sizes['n_embed']:,} codes make {WORDS + sizes['n_embed']:,}",
                where=str(file),
                fix="both parts must be of LLM-CXR",
            )
        files = find_files(parts.llm)

        def source() -> Source:
            return Together({"llm/": Shards(files), "vq/": Shards((parts.weights,), "state_dict")})

        config = configuration({**stated, **llava.also(body, ("bos_token_id", "eos_token_id"))}, body, sizes)
        return Opened(config, rows(), source, (*files, parts.weights), parts.llm)

    def full_size(self) -> Opened:
        """The published sizes: 2.780 billion parameters and the VQ-GAN's 72 million."""
        stated = {
            "vocab_size": WORDS + 1024,
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "rotary_pct": 0.25,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
        return Opened(configuration(stated, {}, FULL_SIZES))

    def tokenizer_folder(self) -> Path | None:
        """The language model's folder."""
        folder = self.folders.get(PATH)
        return find_parts(folder, self.CARD.about).llm if folder is not None else None

    @property
    def consumes(self) -> frozenset[str]:
        """The key image and the question; for a picture the report."""
        return super().consumes | {"impression", "findings"}

    @classmethod
    def reference(cls, target: str) -> Preset:
        """The authors' evaluation."""
        return Preset(
            name="reference",
            version=1,
            source="authors-eval",
            citation=EVAL,
            generation={**MATCHED.generation, "temperature": 1.0, "top_p": 0.92, "max_new_tokens": 128},
            dtype="bf16",
            pictures={"max_new_tokens": 300},
            origin={
                "temperature": "training/generate.py: do_sample=True, nothing said of the temperature, which is 1",
                "top_p": "training/generate.py: top_p=0.92",
                "top_k": "training/generate.py: top_k=0",
                "max_new_tokens": f"{EVAL}: 128 for a report, 300 for a picture",
                "dtype": "training/generate.py: torch_dtype=torch.bfloat16; codes are made in float32 beforehand",
                "instruction": "training/mimiccxr_vq_dataset.py: one of ten at random",
            },
            quirks=(
                "the instruction is drawn for every sample; here by its seed, so that a run can be repeated",
                "the target of its second training stage is the impression: findings are not what it writes",
                "a picture is drawn anew until it has 256 codes; here once, and other counts give no picture",
                "the original reads codes from a file that was made before; here they are made as images are read",
            ),
        )

    # Requests

    def words(self, choices: Sequence[str], seed: int) -> str:
        """The chosen wording, or the one a seed draws."""
        if self.instruction != RANDOM:
            return choices[int(self.instruction) - 1]
        return choices[seed % len(choices)]

    def ask(self, sample: Sample) -> Asked | None:
        """The first wording, in whose place `request` puts the drawn one; a question takes its place."""
        if sample.question is not None:
            return f"{llava.plain(sample.question)}\n\nInput:\n{IMAGE}", ["question"]
        return f"{FROM_IMAGE[0]}\n\nInput:\n{IMAGE}", []

    def request(self, sample: Sample, kind: RequestKind, generation: Generation, seed: int) -> Request:
        """As elsewhere, with the instruction the seed draws; a picture is asked for with the report as input."""
        if kind == "generate_image":
            return self._picture(sample, generation, seed)
        made = super().request(sample, kind, generation, seed)
        if not made.messages or sample.question is not None:
            return made
        text = f"{self.words(FROM_IMAGE, seed)}\n\nInput:\n{IMAGE}"
        return replace(made, messages=(Message("user", text),))

    def _picture(self, sample: Sample, generation: Generation, seed: int) -> Request:
        given = sections_used(sample, ("impression", "findings"))
        if not given:
            return Request(sample.sample_id, "generate_image", generation=generation, seed=seed)
        name, report = next(iter(given.items()))
        return Request(
            sample.sample_id,
            "generate_image",
            messages=(Message("user", f"{self.words(TO_IMAGE, seed)}\n\nInput:\n{report}"),),
            inputs=(f"section:{name}",),
            generation=generation,
            seed=seed,
        )

    def wrap(self, question: str) -> str:
        """Dolly's prompt, with input (training/consts.py, PROMPT_FOR_GENERATION_FORMAT)."""
        return f"{INTRO}\n\n### Instruction:\n{question}\n\n### Response:\n"

    def prompt_identity(self) -> str:
        """The wordings that may be drawn, wrapped."""
        if "generate_image" in self.options.asks:
            return self.wrap(f"{self.instruction} of {'|'.join(TO_IMAGE)}\n\nInput:\n...")
        return self.wrap(f"{self.instruction} of {'|'.join(FROM_IMAGE)}\n\nInput:\n{IMAGE}")

    # Tensors

    def make_tokenizer(self, folder: Path) -> Any:
        """The checkpoint's; its ids must end where the codes begin, and it must know the end of an answer."""
        made = read_tokenizer(folder, bos=self.bos)
        last = max(made.get_vocab().values())
        if last >= WORDS or made.convert_tokens_to_ids(END) == made.unk_token_id:
            what = f"its ids reach {last:,}" if last >= WORDS else f"it has no token {END!r}"
            raise CxrbenchError(f"this is not the tokenizer of LLM-CXR: {what}", where=str(folder))
        return made

    def eos(self) -> tuple[int, ...]:
        """The token `### End`."""
        if isinstance(self.tokenizer, StandIn):
            return super().eos()
        return (int(self.tokenizer.convert_tokens_to_ids(END)),)

    def tokens(self, prompt: str) -> list[int]:
        """The whole prompt, then `image` between `<` and `>` becomes the places of the codes (get_inject_vq_fun).

        Raises:
            ValueError: the marker is not there once, as three tokens.
        """
        ids, mark = (list(self.tokenizer(text)["input_ids"]) for text in (prompt, IMAGE))
        if IMAGE not in prompt:
            return ids
        found = [place for place in range(len(ids)) if ids[place : place + len(mark)] == mark]
        if len(found) != 1 or len(mark) != 3:
            raise ValueError("the marker of the picture is not there once, as three tokens")
        return [*ids[: found[0] + 1], *[self.image_token] * self.image_tokens(), *ids[found[0] + 2 :]]

    def transform(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        """The short side to the VQ-GAN's with Lanczos, the centre, -1 to 1."""
        return CentreSquare(int(self.opened.config.vqgan["resolution"]))

    def tensors(self, images: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
        """Levels, uint8 (n, 1, side, side): the network turns them into codes in float32."""
        import numpy as np
        import torch

        if not images:
            return {}
        cut = CentreSquare(int(self.opened.config.vqgan["resolution"]))
        return {"pixel_values": torch.from_numpy(np.stack([cut.levels(image)[None] for image in images]))}

    def decode(self, tokens: Sequence[int]) -> str:
        """The words of an answer; codes of a picture in it are no words."""
        return super().decode([token for token in tokens if token < WORDS])

    def picture_codes(self, tokens: Sequence[int]) -> tuple[int, int]:
        """How many codes of a picture an answer holds, and how many make one."""
        return sum(token >= WORDS for token in tokens), self.image_tokens()

    def paint(self, module: Any, tokens: Sequence[int]) -> NDArray[np.uint8] | None:
        """The picture a text holds, uint8 (side, side, 3); None where it does not hold exactly one picture's codes.

        Args:
            module: the loaded network.
            tokens: new tokens of an answer to a request of kind `generate_image`.
        """
        import torch

        codes = [token - WORDS for token in tokens if token >= WORDS]
        if len(codes) != self.image_tokens():
            return None
        with torch.inference_mode():
            made = module.vqgan.decode(torch.tensor([codes], device=module.device))[0]
        levels = ((made.clamp(-1, 1) + 1) / 2 * 255).round().to(torch.uint8)
        picture: NDArray[np.uint8] = levels.permute(1, 2, 0).cpu().numpy()
        return picture

    # The network

    def find_encoder(self, module: Any) -> Any:
        """The VQ-GAN's encoder, to time it."""
        return module.vqgan.encoder

    def module(self, settings: LoadSettings) -> Any:
        """As elsewhere, with the VQ-GAN in float32."""
        module = super().module(settings)
        if settings.dtype == "fp32":
            return module
        module.vqgan.float()
        if self.opened.source is not None and settings.load_format != "dummy":
            source = self.opened.source()
            steps = network.steps(self.build(), source, self.opened.rows).steps
            mine = [step for step in steps if step.targets[0].startswith("vqgan.")]
            for name, value in network.converted(module, source, mine):
                module.get_parameter(name).copy_(value)
        return module


def configuration(stated: Mapping[str, Any], body: Mapping[str, Any], sizes: Mapping[str, Any]) -> Any:
    """The stock configuration with the VQ-GAN's sizes and the places of its codes beside."""
    from transformers import GPTNeoXConfig

    grid = sizes["resolution"] // 2 ** (len(sizes["ch_mult"]) - 1)
    rotary = {
        "rope_type": "default",
        "rope_theta": float(body.get("rotary_emb_base", 10000)),
        "partial_rotary_factor": stated["rotary_pct"],
    }
    more = {key: value for key, value in stated.items() if key != "rotary_pct"}
    return GPTNeoXConfig(
        **more,
        rope_parameters=rotary,
        tie_word_embeddings=False,
        vqgan=dict(sizes),
        image_token_id=WORDS,
        image_seq_length=grid * grid,
    )
