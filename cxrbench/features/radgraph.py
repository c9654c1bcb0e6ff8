"""RadGraph's entities and relations of reports (Jain et al., NeurIPS Datasets and Benchmarks 2021), as a feature.

The words and the JSON form are in radgraph_text, the network in radgraph_net, which is imported when the first report
is annotated. Never touches torch itself.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrbench import assets
from cxrbench.config import load_config
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features import embedded
from cxrbench.features.base import Resources, TextFeature, device_kind, device_of
from cxrbench.features.radgraph_archive import read_shape
from cxrbench.features.radgraph_text import Annotation
from cxrbench.features.weights import TOKENIZER, Weights, folders

if TYPE_CHECKING:
    from cxrbench.config import Config
    from cxrbench.features.radgraph_net import RadGraph

VERSION = 2
"""Goes up whenever an annotation of any text could change with the same weights."""


class RadGraphAnnotations(TextFeature):
    """An annotation in RadGraph's JSON form of each text.

    Settings: `weights`, `hash` (features/weights.py), and `of` (features/base.py).
    """

    name = "radgraph"

    def ready(self, settings: Mapping[str, Hashable]) -> str | None:
        return embedded.torch_missing()

    def scope(self, settings: Mapping[str, Hashable], resources: Resources) -> str:
        chosen = Weights.asked(settings)
        return f"radgraph|{VERSION}|{chosen.hash}|{chosen.precision}|{device_kind(resources)}"

    def annotate(
        self, texts: Sequence[str], settings: Mapping[str, Hashable], resources: Resources
    ) -> list[Annotation]:
        """Annotate texts, in order.

        Raises:
            CxrbenchError: the weights are not here, or not those that the metric was fitted with.
        """
        chosen = Weights.asked(settings)
        place, bert = folders(chosen, resources.config)
        check_encoder(chosen, place, resources.config)
        return _annotator(place, bert if bert != place else None, chosen, device_of(resources)).annotate(texts)

    def pack(self, annotation: Any) -> bytes:
        return json.dumps(annotation, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

    def unpack(self, stored: bytes) -> Annotation:
        found: Annotation = json.loads(stored.decode("utf-8", "surrogatepass"))
        return found


@functools.lru_cache(maxsize=2)
def _annotator(archive: Path, bert: Path | None, chosen: Weights, device: str) -> RadGraph:
    """An annotator, read once per process."""
    from cxrbench.features.device import torch_dtype
    from cxrbench.features.radgraph_net import load

    own = (archive / "vocabulary" / f"{chosen.name}__ner_labels.txt").is_file()
    kind = chosen.name if own else None
    return load(archive, bert, kind=kind, device=device, dtype=torch_dtype(chosen.precision))


def check_encoder(chosen: Weights, archive: Path, config: Config | None) -> None:
    """See to it that a fetched tokenizer is that of the encoder the archive names; a folder of the user's own is.

    Vocabularies of one size but another order read every word wrongly, and nothing else would say so.

    Raises:
        CxrbenchError: it is another one; names both.
    """
    if chosen.name not in TOKENIZER:
        return
    settings = config if config is not None else load_config()
    wanted, asset = read_shape(archive).bert, assets.find(TOKENIZER[chosen.name])
    fetched = assets.state(asset.name, settings).record is not None
    if fetched and wanted not in (asset.repository, *asset.also):
        raise CxrbenchError(
            f"the encoder in this archive of {chosen.name} is {wanted}, and {asset.name} is {asset.repository}",
            where=str(archive),
            fix=f'download {wanted} and set {asset.name} = "FOLDER" under [assets.paths] in cxrbench.toml',
            code=Exit.UNDECIDED,
        )
