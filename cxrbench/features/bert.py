"""What the BERT-shaped annotators share: weights read strictly, tokenizer and configuration of a folder, batches.

Imports torch: only the modules that hold networks import this one, and they are imported when a report is annotated.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

from cxrbench.errors import CxrbenchError

GPU_BUDGET = 16_384
"""Word pieces of a padded batch on a GPU."""

CACHE = 12 << 20
"""Bytes of what a layer writes on the CPU: 1,024 word pieces of a BERT of 768."""

SAID = 4
"""Names of missing or unknown tensors that an error lists."""


def read_weights(file: Path) -> Any:
    """What `torch.save` wrote, tensors on the CPU; code in the file is never run.

    Raises:
        CxrbenchError: no such file, or no file of weights.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CxrbenchError("there is no such file of weights", where=str(file), fix="check the path") from error
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise CxrbenchError(
            f"{file.name} is no file of weights, or not a whole one: {_first_sentence(error)}",
            where=str(file),
            fix=f"bring {file.name} again: cxrbench assets fetch, or your own copy of it",
        ) from error


def _first_sentence(error: Exception) -> str:
    """What torch says, without the advice behind it."""
    return (str(error) or "it ends too early").splitlines()[0].partition(". ")[0].rstrip(".")


def fill(net: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    """Put tensors into a network, every one of them and no other; they are cast to the network's own type.

    Raises:
        CxrbenchError: a tensor is missing, unknown, or of another shape; names the first few.
    """
    wanted = net.state_dict()
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    problems = [("missing", missing), ("unknown", unknown), ("of another shape", shapes)]
    said = [f"{len(names)} {kind} ({_some(names)})" for kind, names in problems if names]
    if said:
        raise CxrbenchError(
            f"the weights do not fit the network: {'; '.join(said)}",
            where=str(file),
            fix="give the configuration that belongs to these weights",
        )
    net.load_state_dict(dict(state))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SAID]) + (", ..." if len(names) > SAID else "")


def read_config(folder: Path) -> Any:
    """The transformers configuration of a folder (config.json).

    Raises:
        CxrbenchError: there is none.
    """
    return _from_folder(AutoConfig, folder)


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder.

    Raises:
        CxrbenchError: there is none.
    """
    return _from_folder(AutoTokenizer, folder)


def _from_folder(kind: Any, folder: Path) -> Any:
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CxrbenchError(
            f"this folder holds no {'tokenizer' if kind is AutoTokenizer else 'config.json'} that transformers reads",
            where=str(folder),
            fix="give the folder of the BERT model the weights were trained from",
        ) from error


def load_stock(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A stock network of transformers (`kind` is an Auto class) with every weight from the folder, on the CPU.

    Stock loading fills missing weights at random and says so in a warning; a metric must not. Only the pooler, which
    nothing here uses, may be missing.

    Raises:
        CxrbenchError: the folder cannot be loaded, or weights are missing or of another shape.
    """
    with _quiet():
        try:
            net, info = kind.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                dtype=dtype,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CxrbenchError(
                f"transformers cannot load the network: {str(error).strip().splitlines()[0]}",
                where=str(folder),
                fix="fetch it again",
            ) from error
    lost = [str(name) for name in info["missing_keys"] if not str(name).startswith("pooler.")]
    lost += [str(each[0] if isinstance(each, tuple) else each) for each in info.get("mismatched_keys") or ()]
    if lost:
        raise CxrbenchError(
            f"{len(lost)} weights are missing: {_some(sorted(lost))}",
            where=str(folder),
            fix="fetch it again, config.json and weights from one place",
        )
    return net


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what stock loading says of weights nobody asks for (heads, poolers) off the terminal."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def batch_budget(net: Any) -> int:
    """Word pieces of a padded batch that an encoder is fastest with.

    On the CPU what a layer writes in its middle (four times the hidden size, float32) has to stay in the cache: larger
    batches took twice the time. A GPU wants many rows at once.
    """
    if net.device.type != "cpu":
        return GPU_BUDGET
    return max(CACHE // (4 * int(net.config.hidden_size) * 4), 1)


def by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first; a padded batch holds at most `budget` tokens.

    A text longer than the budget is a batch of its own.

    >>> list(by_length([3, 9, 2], budget=6))
    [[1], [0, 2]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * max(lengths[batch[0]], 1) > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pad(rows: Sequence[Sequence[int]], filler: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (rows, longest) filled up with `filler`, and the mask of real tokens (rows, longest) int64."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), filler, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return ids.to(device), mask.to(device)
