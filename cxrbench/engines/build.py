"""From `--model name:argument` to a Model: model-free ones as they are, adapters joined to an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cxrbench import registry
from cxrbench.errors import CxrbenchError

if TYPE_CHECKING:
    from cxrbench.models.base import Model, ModelOptions

DEFAULT_ENGINE = "transformers"


def split_name(text: str) -> tuple[str, str]:
    """`replay:preds.jsonl` -> ("replay", "preds.jsonl").

    >>> split_name("hf:C:/models/x"), split_name("always-normal")
    (('hf', 'C:/models/x'), ('always-normal', ''))
    """
    name, _, argument = text.partition(":")
    return name, argument


def make_model(name: str, options: ModelOptions, engine: str | None = None) -> Model:
    """Build a model.

    Raises:
        CxrbenchError: unknown name, an engine for a model that has none, or a pair that does not fit.
    """
    made = registry.load("models", name)
    if not hasattr(made, "offers"):
        if engine is not None:
            raise CxrbenchError(f"{name} runs without an engine", where=f"--engine {engine}", fix="leave --engine out")
        model: Model = made(options)
        return model
    from cxrbench.engines.base import join

    if hasattr(made, "adapter_for"):  # one name for folders of several shapes
        made = made.adapter_for(options)
    usual = DEFAULT_ENGINE if "network" in made.offers else "openai"  # what has no network is behind a server
    return join(made, registry.load("engines", engine or usual), options)
