"""Ids that only holders of the data can link back: HMACs keyed by a hash of the reference texts. Standard library only.

The key is never stored: who has the references makes it anew, who has only the file cannot try ids one by one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from cxrbench.types import Sample

LENGTH = 24
"""Hex digits of a hashed id: 96 bits, so that among a million samples no two are taken for one."""


def reference_key(samples: Iterable[Sample]) -> bytes:
    """32 bytes made of the ids and reference texts of all samples of a task, in any order."""
    digest = hashlib.sha256(b"cxrbench ids v1\0")
    each = (
        hashlib.sha256(f"{sample.sample_id}\0{sample.target}".encode("utf-8", "surrogatepass")) for sample in samples
    )
    for row in sorted(one.digest() for one in each):
        digest.update(row)
    return digest.digest()


def hashed_id(key: bytes, kind: str, name: str) -> str:
    """Name a sample or a patient (`kind`) without telling which.

    >>> hashed_id(b"key", "sample", "s1") == hashed_id(b"key", "patient", "s1")
    False
    """
    return hmac.new(key, f"{kind}\0{name}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:LENGTH]
