"""Pages as one file that needs nothing else: templates, scripts and data inside, no network, byte for byte repeatable.

A page's policy (CSP) allows the scripts it carries, by their hashes, and nothing from anywhere. Data go in as JSON in
which no character can end the script element; whatever a person wrote is shown as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

FOLDER = Path(__file__).resolve().parent / "templates"


def text_of(name: str) -> str:
    """A file of the templates folder."""
    return (FOLDER / name).read_text(encoding="utf-8")


@cache
def plotly() -> str:
    """The chart library, once per page; never fetched."""
    from plotly.offline import get_plotlyjs

    found: str = get_plotlyjs()
    return found


@cache
def packed_plotly() -> str:
    """The chart library as base64 of zlib's format: a third of its size, unpacked by the page when it is needed."""
    return base64.b64encode(zlib.compress(plotly().encode(), 9)).decode()


def script_hash(script: str) -> str:
    """How a policy names a script that may run: SHA-256 of its text."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"


def policy(*scripts: str) -> str:
    """The content security policy of a page: these scripts, inline styles, pictures inside the page, nothing else.

    Charts set styles as they draw, which is why inline styles are allowed; no style can reach the network either.
    """
    allowed = " ".join(script_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def data_json(data: Any) -> Markup:
    r"""JSON for a script element: sorted keys, no NaN, and no character that means something to HTML.

    >>> str(data_json({"a": "</script>"}))
    '{"a":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(data, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # noqa: S704 - nothing in it can leave the element


def render(template: str, **values: Any) -> str:
    """Fill a template: everything is escaped unless it is marked as this package's own; a missing value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)


def own(text: str) -> Markup:
    """Mark a text of this package (a script, a style sheet) as needing no escape."""
    return Markup(text)  # noqa: S704 - files of this package only
