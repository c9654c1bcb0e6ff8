"""Stock classes on the meta device, filled from a source by its key map or with random numbers. Used by adapters only.

Nothing is allocated before a tensor is read, so a full-size network can be counted, planned and converted on a small
machine. torch and transformers are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cxrbench.errors import CxrbenchError
from cxrbench.models.adapter import LoadSettings, Network
from cxrbench.models.keys import Plan, Row, Source, Step, Tensor, listed, plan
from cxrbench.models.stock import DTYPES


def build(kind: Any, config: Any, dtype: str = "fp32", attention: str = "sdpa") -> Any:
    """An instance of the stock class `kind` on the meta device: all shapes, no memory."""
    import torch

    with torch.device("meta"):
        return kind._from_config(config, dtype=getattr(torch, DTYPES[dtype]), attn_implementation=attention)


def count(module: Any) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def stock_names(module: Any) -> tuple[str, ...]:
    """Names that need a value: the class's `state_dict()` without those that share another's (tied) weight."""
    tied = set(module.all_tied_weights_keys or ())
    return tuple(name for name in module.state_dict() if name not in tied)


def steps(module: Any, source: Source, rows: Sequence[Row]) -> Plan:
    """The conversion, with shapes compared where a tensor goes over unchanged.

    Raises:
        CxrbenchError: names or shapes that do not fit.
    """
    made = plan(source.names(), rows, stock_names(module), source.where)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    odd = [
        f"{step.source} {source.shape(step.source)} for {shapes[step.targets[0]]}"
        for step in made.steps
        if step.change is None and source.shape(step.source) != shapes[step.targets[0]]
    ]
    if odd:
        raise CxrbenchError(
            f"{len(odd)} weights have another shape than the configuration says: {listed(odd, 3)}",
            where=source.where,
            fix="config.json and the weights must be those of this model; copy both from one place",
        )
    return made


def converted(module: Any, source: Source, steps: Sequence[Step]) -> Iterator[tuple[str, Tensor]]:
    """Yield (stock name, tensor) one source tensor after another.

    Raises:
        CxrbenchError: a tensor that cannot be taken apart as its row says, has another shape, or holds NaN.
    """
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    for step in steps:
        value = source.read(step.source)
        _finite(value, step.source, source.where)
        for target, part in zip(step.targets, _change(step, value, source.where), strict=True):
            if tuple(part.shape) != shapes[target]:
                raise CxrbenchError(
                    f"{step.source} becomes {target} of shape {tuple(part.shape)}, and the configuration says"
                    f" {shapes[target]}",
                    where=source.where,
                    fix="config.json and the weights must be those of this model; copy both from one place",
                )
            yield target, part


def _change(step: Step, value: Tensor, where: str) -> Sequence[Tensor]:
    if step.change is None:
        return (value,)
    try:
        made = step.change(value)
    except RuntimeError as error:  # torch's word for a shape that cannot be viewed as asked
        raise CxrbenchError(
            f"{step.source} of shape {tuple(value.shape)} cannot be taken apart as the configuration says",
            where=where,
            fix="config.json and the weights must be those of this model; copy both from one place",
        ) from error
    return made if isinstance(made, tuple) else (made,)


def _finite(value: Tensor, name: str, where: str, cast: str = "") -> None:
    """A NaN or infinity in the weights makes every text worthless: named here, before anything is generated."""
    if not bool(value.isfinite().all()):
        raise CxrbenchError(
            f"the weight {name} holds NaN or infinite values{cast}",
            where=where,
            fix="--dtype bf16 or fp32" if cast else "copy or convert the checkpoint again",
        )


def fill(module: Any, source: Source, rows: Sequence[Row], settings: LoadSettings) -> Plan:
    """Give a network built by `build` its weights, on the device and in the precision of `settings`.

    Raises:
        CxrbenchError: names, shapes or values that do not fit.
    """
    import torch

    made = steps(module, source, rows)
    device = "cpu" if settings.device_map is not None else settings.device
    dtype = getattr(torch, DTYPES[settings.dtype])
    for name, part in converted(module, source, made.steps):
        value = part.detach().to(device=device, dtype=dtype, copy=True).contiguous()
        if part.dtype != dtype and dtype == torch.float16:
            _finite(value, name, source.where, " in fp16")
        _put(module, name, value)
    for name in made.unset:
        _put(module, name, torch.zeros(module.state_dict()[name].shape, device=device, dtype=dtype))
    _make_buffers(module, device)
    if settings.device_map is not None:
        _spread(module, settings.device_map)
    return made


def _put(module: Any, name: str, value: Tensor) -> None:
    import torch

    parent, _, leaf = name.rpartition(".")
    owner = module.get_submodule(parent)
    if leaf in owner._parameters:
        value = torch.nn.Parameter(value, requires_grad=False)
        value._is_hf_initialized = True  # transformers' own mark: `initialize_weights` passes it by
        owner._parameters[leaf] = value
    else:
        value._is_hf_initialized = True
        owner._buffers[leaf] = value


def _make_buffers(module: Any, device: str) -> None:
    """What no checkpoint holds (rotary frequencies, position ids), made as transformers makes it when it loads one."""
    import torch

    for owner in module.modules():
        for leaf, value in owner._buffers.items():
            if value is not None and value.is_meta:
                owner._buffers[leaf] = torch.empty_like(value, device=device)
    module.tie_weights()
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        module.initialize_weights()


def _spread(module: Any, device_map: str) -> None:
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    kept = list(getattr(module, "_no_split_modules", None) or ())
    memory = get_balanced_memory(module, no_split_module_classes=kept) if device_map in ("auto", "balanced") else None
    dispatch_model(module, infer_auto_device_map(module, max_memory=memory, no_split_module_classes=kept))


def randomise(module: Any, device: str, seed: int) -> None:
    """Random weights of real scale, drawn on the device from a seed; the global random state stays as it was."""
    import torch

    module.to_empty(device=device)
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        module.initialize_weights()
    module.tie_weights()


def ready(
    module: Any, *, eos: Sequence[int], pad: int, device: str, find_encoder: Callable[[Any], Any] | None = None
) -> Network:
    """Switch a filled network to evaluation and describe it; `find_encoder` gives its image tower, to time it."""
    from transformers import GenerationConfig

    module.eval()
    module.requires_grad_(False)
    module.generation_config = GenerationConfig()
    return Network(
        module=module,
        encoder=find_encoder(module) if find_encoder is not None else None,
        eos=tuple(eos),
        pad=pad,
        attention=str(module.config._attn_implementation),
        entry=next((str(each.device) for each in module.parameters() if each.device.type != "meta"), device),
    )
