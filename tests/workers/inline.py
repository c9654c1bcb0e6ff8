"""A run folder in which workers of a scoring work in this process, with the annotators of the trials and a judge."""

from dataclasses import replace

from cxrbench.features.base import Pairs, Resources
from cxrbench.features.store import Store
from cxrbench.judges.feature import PairVerdicts
from cxrbench.metrics.base import FeatureRequest
from cxrbench.scoring import Ahead
from cxrbench.store import RunFolder
from cxrbench.workers import annotate
from cxrbench.workers.annotate import annotate_share, annotate_with_workers
from cxrbench.workers.supervise import Ended
from tests.chat_server import answer, status
from tests.judges.answers import chexprompt_answer
from tests.workers.reader import Counts, Doubled

TEXTS = [f"Report number {i} of {'many ' * (i % 7)}words." for i in range(24)]
ABOUT = '{"rubric": "a.1", "who": {"model": "m"}}'
"""Of an answer of a judge: by which rubric who was asked."""


def nothing(*_):
    return None


def world_in(tmp_path, monkeypatch):
    """A run folder, 24 pairs in chunks of 7, a store, and the annotators of the trials, found by name."""

    class World:
        run = RunFolder(tmp_path / "run")
        store = Store(tmp_path / "features" / "phantom")
        pairs = Pairs([f"s{i}" for i in range(24)], TEXTS, TEXTS[::-1])
        requests = (FeatureRequest("slow-counts"), FeatureRequest("slow-doubled"))

        def ahead(self, **changes):
            def chunks():
                for at in range(0, 24, 7):
                    one = slice(at, at + 7)
                    yield Pairs(self.pairs.sample_ids[one], self.pairs.predictions[one], self.pairs.references[one])

            return Ahead({"slow:plain": self.requests}, chunks, replace(Resources(store=self.store), **changes))

    known = {"slow-counts": Counts, "slow-doubled": Doubled, "judge": PairVerdicts}
    monkeypatch.setattr(annotate.registry, "load", lambda kind, name: known[name])
    monkeypatch.setenv("TRIAL_LOG", str(tmp_path / "log"))
    monkeypatch.setattr("cxrbench.workers.supervise.LOOK", 0.0)
    return World()


class Inline:
    """A crew whose workers work when they are started, in this process; `die` says when one is killed."""

    def __init__(self, ahead, parts, world, die=nothing):
        self.ahead, self.parts, self.world, self.die = ahead, parts, world, die
        self.gone = []

    def start(self, rank):
        try:
            annotate_share(self.ahead, self.parts, rank, self.parts.plan(), self.die, nothing)
        except InterruptedError:
            self.gone.append(Ended(rank, "died", "by signal SIGKILL"))
        else:
            self.gone.append(Ended(rank, "done"))

    def ended(self):
        found, self.gone = self.gone, []
        return found

    def stop(self):
        pass


def shared(world, workers, ahead, die=nothing, notes=None):
    said = [] if notes is None else notes
    parts = annotate.parts_of(world.run, ahead.resources)
    crews = []

    def crew(metrics, count):
        assert metrics == ["slow:plain"]
        crews.append(Inline(ahead, parts, count, die))
        return crews[-1]

    made = annotate_with_workers(world.run, ahead, workers, crew, nothing, nothing, said.append)
    return made, len(crews)


def requests(server):
    return [heard.body for heard in server.heard if heard.method == "POST"]


def judged(world, server, **settings):
    from cxrbench.engines.chat import Chat
    from cxrbench.judges.build import Wish, build

    given = {"backoff": "0", "retries": "0", "concurrency": "5", "structured": "no", **settings}
    made = build(Wish("openai:m", server.url, settings=given), "credentialed", {}, "cpu", Chat)
    rubric = made.rubric("chexprompt")
    made.known[rubric.tag] = rubric
    return made.at(world.run.path.parent / "judges"), FeatureRequest("judge", (("rubrics", rubric.tag),))


def behave(heard):
    if heard.method == "GET":
        return answer()
    text = heard.body.decode()
    if "number 3 " in text:
        return status(500)
    if "number 5 " in text:
        return answer("no verdict at all")
    return answer(chexprompt_answer((len(text) % 2, 0, 0, 0, 0, 0)))
