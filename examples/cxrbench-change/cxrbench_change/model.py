"""A model in a dozen lines: it repeats the indication. A network would be an `Adapter` (docs/add-a-model.md)."""

from cxrbench.models.base import ModelCard
from cxrbench.models.baselines import Lookup, refuse_settings
from cxrbench.types import Request


class EchoIndication(Lookup):
    """Says what the referring doctor asked, whatever the picture shows."""

    card = ModelCard("echo-indication", "repeats the indication", revision="1", licence="Apache-2.0")
    consumes = frozenset({"indication"})

    def __init__(self, options):
        refuse_settings(self.card.name, options)
        self.said = {}

    def request(self, sample, kind, generation, seed):
        self.said[sample.sample_id] = sample.sections.get("indication", "")
        return Request(sample.sample_id, kind, inputs=("section:indication",), generation=generation, seed=seed)

    def text(self, request):
        return self.said[request.sample_id]
