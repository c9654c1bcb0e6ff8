"""One lazy registry: built-in "module:attr" strings, entry points of installed packages, nothing imported early.

Touches types and errors only. A plug-in declares an entry point in the group `cxrbench.<kind>`:

    [project.entry-points."cxrbench.metrics"]
    my-metric = "my_package.my_metric:MyMetric"

and `cxrbench score RUN --metrics my-metric` finds it. A built-in name cannot be taken over by a plug-in.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from cxrbench.errors import CxrbenchError, Exit, suggest

Kind = Literal["datasets", "models", "engines", "metrics", "features"]
KINDS: tuple[Kind, ...] = ("datasets", "models", "engines", "metrics", "features")


@dataclass(frozen=True, slots=True)
class Entry:
    """A name, where its object lives, and one line about it (shown by `cxrbench list`)."""

    name: str
    target: str
    about: str
    source: str = "cxrbench"

    def load(self) -> Any:
        """Import and return the object."""
        module, _, attr = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attr)
        except (ImportError, AttributeError) as error:
            raise CxrbenchError(
                f"{self.name!r} is registered as {self.target} but cannot be imported: {error}",
                where=f"package {self.source}",
                fix="cxrbench doctor" if self.source == "cxrbench" else f"reinstall {self.source}",
                code=Exit.INFRASTRUCTURE,
            ) from error


BUILTIN: Mapping[Kind, tuple[Entry, ...]] = {
    "datasets": (
        Entry("phantom", "cxrbench.data.phantom:Phantom", "drawn studies with exact labels; made on the spot"),
        Entry("iu-xray", "cxrbench.data.iu_xray:IuXray", "Indiana University / Open-i, 3,955 reports"),
        Entry("mimic-cxr", "cxrbench.data.mimic_cxr:MimicCxr", "MIMIC-CXR and MIMIC-CXR-JPG, credentialed"),
        Entry("chexpert-plus", "cxrbench.data.chexpert_plus:CheXpertPlus", "CheXpert Plus, Stanford; credentialed"),
        Entry("jsonl", "cxrbench.data.jsonl:Jsonl", "anyone's own data, one JSON object per study"),
        Entry("vqa-rad", "cxrbench.data.vqa_rad:VqaRad", "VQA-RAD, questions by clinicians"),
        Entry("slake", "cxrbench.data.slake:Slake", "SLAKE, questions in English and Chinese"),
        Entry("rad-restruct", "cxrbench.data.rad_restruct:RadRestruct", "a structured report of Open-i as questions"),
        Entry("chexbench", "cxrbench.data.chexbench:CheXbench", "CheXbench, multiple choice and texts; credentialed"),
    ),
    "models": (
        Entry("always-normal", "cxrbench.models.baselines:AlwaysNormal", "one constant normal report"),
        Entry("random-report", "cxrbench.models.baselines:RandomReport", "a random report of the train split"),
        Entry("frequent-answer", "cxrbench.models.frequent:FrequentAnswer", "the train split's usual answer, no image"),
        Entry("nearest-image", "cxrbench.models.nearest:NearestImage", "the report of the most similar train image"),
        Entry(
            "random-embedding", "cxrbench.models.embedding_baselines:RandomEmbedding", "random vectors, for retrieval"
        ),
        Entry(
            "ridge-embedding",
            "cxrbench.models.embedding_baselines:RidgeEmbedding",
            "thumbnails regressed on bags of words, for retrieval",
        ),
        Entry("random-image", "cxrbench.models.picture_baselines:RandomImage", "a random train picture"),
        Entry("mean-image", "cxrbench.models.picture_baselines:MeanImage", "the mean of the train pictures"),
        Entry(
            "nearest-text",
            "cxrbench.models.picture_baselines:NearestText",
            "the train picture whose report is most alike",
        ),
        Entry("replay", "cxrbench.models.replay:Replay", "replay:FILE, someone's predictions as a run"),
        Entry("hf", "cxrbench.models.hf:HuggingFace", "hf:DIR, any image-text-to-text checkpoint folder"),
        Entry("slava", "cxrbench.models.slava:Slava", "SLaVA-CXR, CLIP-L/14-336 and Phi-2"),
        Entry("llava-med", "cxrbench.models.llava_med:LlavaMed", "LLaVA-Med v1.5, CLIP-L/14-336 and Mistral-7B"),
        Entry("llava-med-v1", "cxrbench.models.llava_med_v1:LlavaMedV1", "LLaVA-Med v1, deltas over LLaMA-7B"),
        Entry("llava-rad", "cxrbench.models.llava_rad:LlavaRad", "LLaVA-Rad, DINOv2 at 518 px and Vicuna-7B"),
        Entry(
            "biomedclip-cxr",
            "cxrbench.models.biomedclip_cxr:BiomedClipCxr",
            "LLaVA-Rad's two towers, for retrieval",
        ),
        Entry("chexagent-2", "cxrbench.models.chexagent_2:CheXagent2", "CheXagent-2, SigLIP-L/16 at 512 px and Phi-2"),
        Entry("chexagent", "cxrbench.models.chexagent:CheXagent", "CheXagent (8B), BLIP-2 over Mistral-7B"),
        Entry("llm-cxr", "cxrbench.models.llm_cxr:LlmCxr", "LLM-CXR, VQ-GAN codes and dolly-v2-3b"),
        Entry("maira-2", "cxrbench.models.maira_2:Maira2", "MAIRA-2, RAD-DINO at 518 px and Vicuna-7B"),
        Entry("medgemma", "cxrbench.models.medgemma:MedGemma", "MedGemma 4B, 27B and 1.5, stock Gemma 3"),
        Entry(
            "chexpert-plus", "cxrbench.models.chexpert_plus:CheXpertPlus", "CheXpert Plus baselines, Swinv2 and BERT"
        ),
        Entry("shape", "cxrbench.models.shape:ShapeModel", "shape:NAME, given sizes with random weights, for speed"),
        Entry(
            "lm-eval",
            "cxrbench.bridges.lm_eval_as_model:LmEvalModel",
            "lm-eval:NAME,key=value, a model as lm-eval runs it",
        ),
        Entry("openai", "cxrbench.models.openai:OpenAI", "openai:NAME, a model without weights behind a server"),
        Entry("demo", "cxrbench.models.demo:Demo", "a tiny LLaVA trained on phantom, shipped with cxrbench"),
        Entry("demo-regressed", "cxrbench.models.demo:DemoRegressed", "an earlier checkpoint of demo, clearly worse"),
        Entry("demo-verbose", "cxrbench.models.demo:DemoVerbose", "demo taught to write longer and say no more"),
    ),
    "engines": (
        Entry("transformers", "cxrbench.engines.transformers:TransformersEngine", "stock transformers generate()"),
        Entry("slots", "cxrbench.engines.slots:SlotsEngine", "stock modules, fixed slots refilled as texts end"),
        Entry("openai", "cxrbench.engines.openai:OpenAIEngine", "any OpenAI-compatible server (needs httpx)"),
        Entry("vllm", "cxrbench.engines.vllm:VllmEngine", "vLLM's offline interface (needs vllm; never run by us)"),
    ),
    "metrics": (
        Entry("bleu", "cxrbench.metrics.bleu:Bleu", "BLEU-1..4"),
        Entry("rouge-l", "cxrbench.metrics.rouge:RougeL", "ROUGE-L"),
        Entry("cider", "cxrbench.metrics.cider:Cider", "CIDEr (CIDEr-D as in coco-caption)"),
        Entry("meteor", "cxrbench.metrics.meteor:Meteor", "METEOR 1.5 (needs Java and the extra `coco`)"),
        Entry("retrieval", "cxrbench.metrics.retrieval:Retrieval", "recall at 1, 5, 10, 50, both ways"),
        Entry("median-rank", "cxrbench.metrics.median_rank:MedianRank", "median rank of the right answer, both ways"),
        Entry("frechet", "cxrbench.metrics.frechet:Frechet", "Fréchet distance of pictures over an encoder's features"),
        Entry(
            "label-agreement",
            "cxrbench.metrics.label_agreement:LabelAgreement",
            "labels read from pictures against those of their texts",
        ),
        Entry("length", "cxrbench.metrics.length:Length", "words per report and verbosity ratio"),
        Entry("distinct", "cxrbench.metrics.distinct:Distinct", "share of distinct reports"),
        Entry("label-f1", "cxrbench.metrics.label_f1:LabelF1", "labels read from reports against shipped labels"),
        Entry("chexbert-f1", "cxrbench.metrics.chexbert_f1:CheXbertF1", "CheXbert F1 (needs torch and its weights)"),
        Entry("radgraph-f1", "cxrbench.metrics.radgraph_f1:RadGraphF1", "RadGraph F1 (needs torch and its weights)"),
        Entry("semb-score", "cxrbench.metrics.semb_score:SembScore", "SembScore (needs torch and CheXbert's weights)"),
        Entry("radcliq", "cxrbench.metrics.radcliq:RadCliQ", "RadCliQ (needs torch and the weights of its parts)"),
        Entry("bertscore", "cxrbench.metrics.bertscore:BertScore", "BERTScore (needs torch and an encoder)"),
        Entry("ratescore", "cxrbench.metrics.ratescore:RateScore", "RaTEScore (needs torch and its two networks)"),
        Entry("chexprompt", "cxrbench.metrics.judged:ChexPrompt", "errors by kind and significance"),
        Entry("green", "cxrbench.metrics.judged:Green", "GREEN"),
        Entry("lc-green", "cxrbench.metrics.judged:LcGreen", "GREEN over relative verbosity"),
        Entry("radfact", "cxrbench.metrics.judged:RadFact", "RadFact, logical scores"),
        Entry("crimson", "cxrbench.metrics.judged:CrimsonScore", "CRIMSON"),
        Entry("correctness-completeness-coherence", "cxrbench.metrics.judged:Axes", "three ratings 1-5"),
        Entry("vqa", "cxrbench.metrics.vqa:Vqa", "open recall and closed accuracy of answers"),
        Entry("choice", "cxrbench.metrics.choice:Choice", "accuracy over options, by likelihood"),
        Entry("choice-letter", "cxrbench.metrics.choice:ChoiceLetter", "accuracy over options, by the letter written"),
        Entry("judge", "cxrbench.metrics.judged:UserJudge", "judge:FILE, a rubric of yours"),
        Entry("evaluate", "cxrbench.metrics.evaluate_module:EvaluateModule", "evaluate:FILE.py, a local module"),
    ),
    "features": (
        Entry("tokens", "cxrbench.metrics.tokens:Tokens", "prepared texts, words and n-gram counts of a convention"),
        Entry("phantom-labels", "cxrbench.features.phantom_labels:PhantomLabels", "exact labeler of phantom reports"),
        Entry("chexbert", "cxrbench.features.chexbert:CheXbertLabels", "14 labels and the [CLS] vector of CheXbert"),
        Entry("radgraph", "cxrbench.features.radgraph:RadGraphAnnotations", "entities and relations of RadGraph"),
        Entry("bertscore", "cxrbench.features.bertscore:BertScorePairs", "BERTScore of a pair: P, R and F"),
        Entry("rate-entities", "cxrbench.features.rate:RateEntities", "entities of a report as RaTEScore finds them"),
        Entry("rate-embeddings", "cxrbench.features.rate:RateEmbeddings", "these entities with their vectors"),
        Entry("answer-vectors", "cxrbench.features.vectors:AnswerVectors", "the vectors of a run, all of them"),
        Entry("picture-features", "cxrbench.features.pictures:PictureFeatures", "an encoder's features of pictures"),
        Entry("picture-labels", "cxrbench.features.pictures:PictureLabels", "labels a classifier reads from pictures"),
        Entry("judge", "cxrbench.judges.feature:PairVerdicts", "a judge's verdicts on a pair"),
        Entry("judge-radfact", "cxrbench.judges.radfact:RadFactVerdicts", "phrases of a pair and what entails them"),
    ),
}


def entries(kind: Kind) -> dict[str, Entry]:
    """All entries of a kind by name: the built-in ones, then those of installed packages."""
    found = {entry.name: entry for entry in BUILTIN[kind]}
    for name, target, source in _plug_ins(kind, tuple(sys.path)):
        if name in found:
            if source != "cxrbench":
                raise CxrbenchError(
                    f"the {kind[:-1]} name {name!r} is taken twice",
                    where=f"{found[name].source} and {source}",
                    fix=f"pip uninstall {source}",
                )
            continue
        found[name] = Entry(name, target, f"plug-in of {source}", source)
    return found


@lru_cache(maxsize=32)
def _plug_ins(kind: Kind, path: tuple[str, ...]) -> tuple[tuple[str, str, str], ...]:
    """Name, target and package of what installed packages bring; 20 ms to look up, so once for each `sys.path`."""
    from importlib.metadata import entry_points

    return tuple(
        (point.name, point.value, point.dist.name if point.dist is not None else "unknown package")
        for point in entry_points(group=f"cxrbench.{kind}")
    )


def find(kind: Kind, name: str) -> Entry:
    """Return the entry called `name`, or raise an error that suggests the nearest name."""
    known = entries(kind)
    if name not in known:
        raise CxrbenchError(
            f"there is no {kind[:-1]} called {name!r}{suggest(name, known)}", fix=f"cxrbench list {kind}"
        )
    return known[name]


def load(kind: Kind, name: str) -> Any:
    """Import and return the object registered as `name`."""
    return find(kind, name).load()
