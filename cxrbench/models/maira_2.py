"""`maira-2`: MAIRA-2 (Bannur et al. 2024), RAD-DINO at 518 px, a projector of four layers and a Vicuna-shaped model.

Read off a copy of the code in the checkpoint (processing_maira2.py in johannes2moll/maira_rrg f8c7a71: prompt, order of
images, stretch of levels; the copy changes the task's words, which are those X-iZhang/Libra 0d6c56a quotes) and public
copies of the model card's example. The words around the user's turn are the checkpoint's own chat template. Real
weights have never been run here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jinja2

from cxrbench.errors import CxrbenchError
from cxrbench.models import llava_shared as llava
from cxrbench.models.adapter import IMAGE
from cxrbench.models.base import ModelCard
from cxrbench.models.checkpoint import read_json
from cxrbench.models.generation import MATCHED, Preset
from cxrbench.models.instruction import parts_of
from cxrbench.models.keys import Drop, Row, Source, to
from cxrbench.models.published import (
    dinov2_attention,
    find_template,
    is_lateral,
    key_image,
    sections_used,
)
from cxrbench.models.published_pixels import Stretched
from cxrbench.models.recognise import config_of
from cxrbench.models.released import NEVER_RUN, Asked, Opened, ReleasedModel
from cxrbench.models.shards import Shards, find_files
from cxrbench.models.sizes import LLAMA_USUAL, grid_of_patches, layers, llama, shape
from cxrbench.types import Image, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TASK = " Provide a description of the findings in the radiology study in comparison to the prior frontal image."
MISSING = "N/A"
"""Stands for a section that is not there (_get_section_text_or_missing_text)."""

SYSTEM = "You are an expert radiology assistant tasked with interpreting a chest X-ray study."
CODE = "microsoft/maira-2, processing_maira2.py"
EXAMPLE = "microsoft/maira-2, README.md (model card, read in public copies), findings without grounding"
PIXELS: Mapping[str, Any] = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 518},
    "crop_size": {"height": 518, "width": 518},
    "image_mean": [0.5307] * 3,
    "image_std": [0.2583] * 3,
}
"""The published preprocessor_config.json, where the folder has none."""


def rows(depth: int) -> tuple[Row, ...]:
    """The key map: DINOv2 with its old names, a projector in a row, LLaMA."""
    layer, stock = r"vision_tower\.encoder\.layer\.(\d+)\.", rf"{llava.TOWER}.encoder.layer.\1"
    attention = dinov2_attention()
    return (
        Drop(r".*\.rotary_emb\.inv_freq", llava.WORKED_OUT),
        *(
            to(rf"{layer}attention\.attention\.{part}\.(.+)", rf"{stock}.{attention[part]}.\2")
            for part in ("query", "key", "value")
        ),
        to(rf"{layer}attention\.output\.dense\.(.+)", rf"{stock}.{attention['output']}.\2"),
        to(r"vision_tower\.(.+)", rf"{llava.TOWER}.\1"),
        *(
            to(rf"multi_modal_projector\.layers\.{2 * number}\.(.+)", rf"{llava.PROJECTOR}.linear_{number + 1}.\1")
            for number in range(depth)
        ),
        to(r"language_model\.model\.(.+)", rf"{llava.LANGUAGE}.\1"),
        to(r"language_model\.(lm_head\.weight)", r"\1"),
    )


def pictures(*, lateral: bool, prior: bool) -> str:
    """The images in the authors' order and words (_construct_image_chat_messages_for_reporting).

    >>> pictures(lateral=True, prior=False)
    'Given the current frontal image<image> and the current lateral image<image>'
    """
    if not lateral and not prior:
        return f"Given the current frontal image only{IMAGE}"
    made = f"Given the current frontal image{IMAGE}"
    if lateral:
        made += f"{'' if prior else ' and'} the current lateral image{IMAGE}"
    return made + (f" and the prior frontal image{IMAGE}" if prior else "")


def question(
    sections: Mapping[str, str], *, lateral: bool, prior: bool = False, prior_report: str | None = None
) -> str:
    """The user's turn (_construct_chat_messages_reporting, without grounding)."""
    indication, technique, comparison = (
        sections.get(name) or MISSING for name in ("indication", "technique", "comparison")
    )
    before = f" PRIOR_REPORT: {prior_report or MISSING}" if prior else ""
    return (
        f"{pictures(lateral=lateral, prior=prior)}{before}{TASK}"
        f" INDICATION: {indication} TECHNIQUE: {technique} COMPARISON: {comparison}"
    )


class Maira2(ReleasedModel):
    """See `cxrbench.models.released.ReleasedModel`."""

    name: ClassVar[str] = "maira-2"
    settings: ClassVar[Mapping[str, str]] = {
        "target": "findings",
        "images": "views (frontal and lateral, the default) or frontal",
    }
    CARD: ClassVar[ModelCard] = ModelCard(
        name="maira-2",
        about="MAIRA-2, RAD-DINO-MAIRA-2 (DINOv2 ViT-B/14, 518 px) and a Vicuna-shaped model, 6.9 billion parameters",
        source="https://huggingface.co/microsoft/maira-2",
        revision="795a2b1c is the one others name; the revision you have is named by the hash of its weights",
        licence="MSRLA (head of the checkpoint's code), research use only",
        citation="Bannur et al. 2024, MAIRA-2, arXiv:2406.04449",
        trained_on=("MIMIC-CXR", "PadChest", "USMix (private)"),
        targets=("findings",),
        inputs=(
            "the frontal key image",
            "the lateral image",
            "indication, technique, comparison",
            "prior image and report: in its prompt, but no task offers them yet, so they are never shown",
        ),
        published=("llavarad-mimic/MAIRA-2",),
        notes=f"no prior study is shown, though it was trained with them; {NEVER_RUN}",
    )

    def __init__(self, options: Any) -> None:
        self.images = options.extra.get("images", "views")
        if self.images not in ("views", "frontal"):
            raise CxrbenchError(f"images must be views or frontal, not {self.images!r}", where="--set images=")
        super().__init__(options)

    def network_class(self) -> Any:
        """Stock LLaVA over DINOv2 with its final norm applied, a deeper projector, LLaMA."""
        from cxrbench.models.bridges_net import Maira2Net

        return Maira2Net

    def open_original(self, folder: Path) -> Opened:
        """`config.json` of a maira2; the tower must be the backbone whose last stage is read."""
        from transformers import Dinov2Config

        file, body = config_of(folder, self.CARD.about, model_type="maira2")
        stated = llava.need(
            body,
            ("text_config", "vision_config", "image_token_index", "projector_n_layers", "vision_feature_layer"),
            file,
        )
        files = find_files(folder)
        source = Shards(files)
        tower = Dinov2Config(**dinov2(source, stated["vision_config"]))
        _refuse(body, stated["vision_config"], tower.num_hidden_layers, file)
        text = llama(source, "language_model.model.", stated["text_config"], LLAMA_USUAL)
        depth = int(stated["projector_n_layers"])
        config = llava.llava_config(
            tower,
            llama_config({**text, "rope_scaling": stated["text_config"].get("rope_scaling")}, file),
            int(stated["image_token_index"]),
            vision_feature_layer=-1,
            projector_depth=depth,
        )
        return Opened(config, rows(depth), lambda: Shards(files), files, folder)

    def full_size(self) -> Opened:
        """The published sizes: 6.880 billion parameters."""
        from transformers import Dinov2Config

        vision = Dinov2Config(
            image_size=518, patch_size=14, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, mlp_ratio=4
        )
        text = llama_config(VICUNA_7B, "the published sizes")
        return Opened(llava.llava_config(vision, text, 32204, vision_feature_layer=-1, projector_depth=4))

    @property
    def consumes(self) -> frozenset[str]:
        """One or two views, and the sections of its prompt."""
        views = "images" if self.images == "views" else "image"
        return frozenset({views, "question", "indication", "technique", "comparison"})

    @classmethod
    def reference(cls, target: str) -> Preset:
        """The model card's example: there is no script of the evaluation."""
        return Preset(
            name="documented",
            version=1,
            source="authors-demo",
            citation=EXAMPLE,
            generation={**MATCHED.generation, "max_new_tokens": 300},
            dtype="fp32",
            origin={
                "temperature": f"{EXAMPLE}: generate() is told nothing else",
                "max_new_tokens": f"{EXAMPLE}: max_new_tokens=300",
                "dtype": f"{EXAMPLE}: no torch_dtype is passed, and the weights are float32",
                "prompt": f"{CODE}: _construct_chat_messages_reporting, get_grounding=False",
            },
            quirks=(
                "a section that is not there is N/A; a missing prior is not mentioned, though the task still asks for a"
                " comparison with it",
                "the levels of each image are stretched to 0..255 first; an image of one level is refused",
            ),
        )

    def pick(self, sample: Sample) -> tuple[Image, ...]:
        """A frontal image, the key one where it is frontal, then the first lateral one."""
        frontal = [image for image in sample.images if not is_lateral(image)]
        lateral = [image for image in sample.images if is_lateral(image)]
        if not frontal:
            return ()
        key = key_image(sample)
        first = key if key in frontal else frontal[0]
        return (first, *lateral[:1]) if self.images == "views" else (first,)

    def ask(self, sample: Sample) -> Asked | None:
        """The authors' request for findings, with the sections the task offers; a question takes its place."""
        lateral = len(self.pick(sample)) > 1
        if sample.question is not None:
            return f"{pictures(lateral=lateral, prior=False)} {llava.plain(sample.question)}", ["question"]
        given = sections_used(sample, ("indication", "technique", "comparison"))
        return question(given, lateral=lateral), [f"section:{name}" for name in given]

    @cached_property
    def _template(self) -> str:
        folder = self.opened.tokenizer
        found = find_template(folder) if folder is not None else None
        if found is None:
            raise CxrbenchError(
                "the checkpoint has no chat template, so its prompt is not known",
                where=str(folder),
                fix="copy tokenizer_config.json and chat_template.json of the published checkpoint",
            )
        return found

    def wrap(self, question: str) -> str:
        """The checkpoint's chat template around the turn; without a checkpoint, what it is described to give."""
        if self.opened.tokenizer is None:
            return f"{SYSTEM}  USER:  {question}  ASSISTANT: "
        turn = {"role": "user", "content": [{"index": None, "text": None, **part} for part in parts_of(question)]}
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [turn], chat_template=self._template, tokenize=False, add_generation_prompt=True
                )
            )
        except jinja2.TemplateError as error:
            raise CxrbenchError(
                f"the chat template cannot be rendered: {type(error).__name__}",
                where=str(self.opened.tokenizer),
                fix="copy the tokenizer files of the published checkpoint again",
            ) from error

    def prompt_identity(self) -> str:
        """The request with its gaps, wrapped, and which views are shown."""
        gaps = {name: "{" + name + "}" for name in ("indication", "technique", "comparison")}
        return f"{self.wrap(question(gaps, lateral=self.images == 'views'))} images={self.images}"

    def tokens(self, prompt: str) -> list[int]:
        """The whole prompt at once, as the authors' processor; each <image> then stands once per patch."""
        found = self.tokenizer(IMAGE, add_special_tokens=False)["input_ids"] if self.opened.tokenizer else None
        if found is None:  # a stand-in knows no <image>
            pieces = [self.tokenizer(piece)["input_ids"] for piece in prompt.split(IMAGE)]
            ids = [token for piece in pieces[1:] for token in (self.image_token, *piece)]
            return self._expanded([*pieces[0], *ids])
        if found != [self.image_token]:
            raise CxrbenchError(
                f"<image> is {found} to the tokenizer, and {self.image_token} in config.json",
                where=str(self.opened.tokenizer),
                fix="copy config.json and the tokenizer files from one place",
            )
        return self._expanded(self.tokenizer(prompt)["input_ids"])

    def _expanded(self, ids: list[int]) -> list[int]:
        count = self.image_tokens()
        return [each for token in ids for each in ([token] * count if token == self.image_token else [token])]

    def transform(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        """Levels stretched, then the checkpoint's preprocessor_config.json (BitImageProcessor)."""
        folder = self.opened.tokenizer
        file = folder / "preprocessor_config.json" if folder is not None else Path("preprocessor_config.json")
        body = read_json(file) if file.is_file() else {}
        side = int(self.opened.config.vision_config.image_size)
        usual = {**PIXELS, "size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        kind = {"image_processor_type": PIXELS["image_processor_type"]}
        return Stretched(llava.pixels_of({**kind, **body} if body else usual, where=str(file)))


VICUNA_7B: Mapping[str, Any] = {
    "vocab_size": 32207,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "rope_scaling": {"type": "linear", "factor": 1.5},
}
"""Sizes of MAIRA-2's language model."""


def dinov2(source: Source, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the tower: what config.json states over what the shapes show (heads are 64 wide)."""
    embeddings = "vision_tower.embeddings."
    seen = grid_of_patches(
        source, f"{embeddings}patch_embeddings.projection.weight", f"{embeddings}position_embeddings", 1
    )
    width = seen["hidden_size"]
    found = {
        **seen,
        "num_hidden_layers": layers(source, r"vision_tower\.encoder\.layer\.(\d+)\.mlp\.fc1\.weight"),
        "num_attention_heads": width // llava.HEAD_WIDTH,
        "mlp_ratio": shape(source, "vision_tower.encoder.layer.0.mlp.fc1.weight")[0] // width,
    }
    return {**found, **llava.also(stated, (*found, "hidden_act", "layer_norm_eps", "qkv_bias", "use_swiglu_ffn"))}


def _refuse(body: Mapping[str, Any], vision: Mapping[str, Any], count: int, file: Path) -> None:
    """Only the last stage with its norm, without the class token, was ever published."""
    last = [f"stage{count}"]
    wanted = {
        "vision_feature_layer": (body["vision_feature_layer"], -1),
        "vision_feature_select_strategy": (body.get("vision_feature_select_strategy", "default"), "default"),
        "projector_hidden_act": (body.get("projector_hidden_act", "gelu"), "gelu"),
        "vision_config.out_features": (vision.get("out_features", last), last),
        "vision_config.apply_layernorm": (vision.get("apply_layernorm", True), True),
    }
    for key, (found, known) in wanted.items():
        if found != known:
            raise CxrbenchError(f"{key} is {found!r}, and only {known!r} is known", where=str(file))


def llama_config(body: Mapping[str, Any], where: Path | str) -> Any:
    """The language model's configuration; positions are divided by the factor of its linear scaling.

    Raises:
        CxrbenchError: sizes are missing, or positions are scaled in another way.
    """
    from transformers import LlamaConfig

    stated = llava.need(body, (*llava.LLAMA, "rope_scaling"), where)
    scaling = stated.pop("rope_scaling")
    kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else None
    if kind != "linear":
        raise CxrbenchError(f"rope_scaling is {scaling!r}, and MAIRA-2's is linear", where=str(where))
    more = llava.also(body, llava.LLAMA_MORE)
    theta = float(more.pop("rope_theta", 10000.0))
    positions = {"rope_type": "linear", "factor": float(scaling["factor"]), "rope_theta": theta}
    return LlamaConfig(**stated, **more, rope_parameters=positions)
