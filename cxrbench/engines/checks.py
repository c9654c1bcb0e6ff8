"""What can be said about an engine's settings before anything is loaded."""

from __future__ import annotations

from cxrbench.errors import CxrbenchError
from cxrbench.models.adapter import LoadSettings


def threads(text: str | None) -> int | None:
    """How many threads `--set threads=` asks for; None: torch decides.

    Raises:
        CxrbenchError: no whole number from 1.
    """
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise CxrbenchError(f"threads must be a whole number from 1, not {text!r}", where="--set threads=")
    return int(text)


def check(settings: LoadSettings) -> None:
    """Refuse a load format that is none, and a placement that cannot be.

    Raises:
        CxrbenchError: says which.
    """
    if settings.load_format not in ("auto", "dummy"):
        raise CxrbenchError(
            f"{settings.load_format!r} is no load format", where="--load-format", fix="auto, or dummy (random weights)"
        )
    if settings.device_map is None:
        return
    if settings.load_format == "dummy":
        raise CxrbenchError("random weights lie on one device", where="--set device_map=", fix="leave device_map out")
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise CxrbenchError(
            "device_map needs the package accelerate", where="--set device_map=", fix="pip install accelerate"
        ) from error
