"""The loop: what is asked is answered once, in batches cut from the whole list, whatever happens in between."""

import json
from dataclasses import replace

import pytest

from cxrbench.config import Config
from cxrbench.data.load import TaskData
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.models.base import BatchResult, ModelCard, ModelOptions, Prepared
from cxrbench.models.baselines import RandomReport
from cxrbench.models.nearest import NearestImage
from cxrbench.plan import RunSettings, cut, generation_settings, pixel_key, plan_run, sample_seed
from cxrbench.runner import execute
from cxrbench.spec import read_task
from cxrbench.store import RunFolder
from cxrbench.types import BatchTiming, Generation, Prediction, Request
from tests.small_task import write_small


@pytest.fixture
def data(tmp_path):
    return TaskData.find(read_task(write_small(tmp_path)), Config(tmp_path / "none.toml"))


class Counting:
    """A real, tiny model for looking at the loop: it answers with its batch, and can be made to fail."""

    card = ModelCard("counting", "answers with the number of its batch")
    kinds = frozenset({"generate"})
    consumes = frozenset({"indication"})
    needs_pool = False
    batch_size = 4

    def __init__(self, fail_at=None, bad=(), empty=()):
        self.fail_at, self.bad, self.empty = fail_at, set(bad), set(empty)
        self.asked = []

    def identity(self):
        return {"name": "counting"}

    def circumstances(self):
        return {"device": "cpu"}

    def fit(self, pool):
        raise AssertionError("a model that needs no pool is not given one")

    def request(self, sample, kind, generation, seed):
        return Request(sample.sample_id, kind, inputs=tuple(sample.sections), generation=generation, seed=seed)

    def cost(self, request):
        return len(request.sample_id)

    def prepare(self, request):
        failure = ("broken_image", "x.png") if request.sample_id in self.bad else None
        return Prepared(request, failure=failure, times={"image_read": 0.001})

    def generate(self, batch, prepared):
        if batch == self.fail_at:
            raise CxrbenchError("the model broke", code=Exit.INFRASTRUCTURE)
        self.asked.append([p.request.sample_id for p in prepared])
        rows = tuple(
            Prediction(
                p.request.sample_id, "ok", " " if p.request.sample_id in self.empty else f"batch {batch}",
                finish_reason="stop", times={"latency": 0.5},
            )
            for p in prepared
        )  # fmt: skip
        return BatchResult(rows, BatchTiming(batch, len(rows), 0.25))

    def close(self):
        pass


def run_all(data, model, folder, **settings):
    plan = plan_run(data, model, RunSettings(**settings))
    return plan, execute(folder, plan, model, {"host": "test"}, 2, lambda *_: None)


def texts(folder):
    return {key: (row.outcome, row.text) for key, row in folder.predictions().items()}


def test_every_sample_is_answered_once_and_times_are_kept(data, tmp_path):
    folder = RunFolder(tmp_path / "run")
    plan, answered = run_all(data, Counting(), folder)
    assert answered == len(plan.chosen) == 24
    assert set(folder.predictions()) == {s.sample_id for s in data.samples.samples}
    row = next(iter(folder.predictions().values()))
    assert row.times == {"image_read": 0.001, "latency": 0.5}
    assert row.inputs == ("indication",)
    batches = folder.batches()
    assert [b.size for b in batches] == [4] * 6
    assert [b.ended for b in batches] == sorted(b.ended for b in batches)
    assert all(b.peak_rss > 0 and b.segment == 0 for b in batches)


def test_a_model_that_breaks_loses_nothing_and_the_next_run_goes_on_where_it_stopped(data, tmp_path):
    folder, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    run_all(data, Counting(), whole)
    with pytest.raises(CxrbenchError, match="the model broke"):
        run_all(data, Counting(fail_at=3), folder)
    assert len(folder.predictions()) == 12
    second = Counting()
    _, answered = run_all(data, second, folder)
    assert answered == 12
    assert len(second.asked) == 3
    assert texts(folder) == texts(whole)
    assert len(folder.manifest().circumstances) == 2
    assert {b.segment for b in folder.batches()} == {0, 1}


def test_a_batch_that_was_written_in_part_is_answered_whole_and_completed(data, tmp_path):
    folder, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    run_all(data, Counting(), whole)
    run_all(data, Counting(), folder)
    file = folder.shard_file("predictions")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:6]) + lines[6][:20])
    again = Counting()
    _, answered = run_all(data, again, folder)
    assert answered == 18
    assert len(again.asked[0]) == 4
    assert texts(folder) == texts(whole)


def test_what_cannot_be_read_is_an_outcome_and_what_says_nothing_is_empty(data, tmp_path):
    ids = [s.sample_id for s in data.samples.samples]
    folder = RunFolder(tmp_path / "run")
    run_all(data, Counting(bad=ids[:5], empty=ids[5:7]), folder)
    rows = folder.predictions()
    assert [rows[i].outcome for i in ids[:7]] == ["broken_image"] * 5 + ["empty"] * 2
    assert rows[ids[0]].detail == "x.png"
    assert rows[ids[0]].finish_reason == "error"
    assert len(rows) == 24


def test_a_batch_of_nothing_but_broken_images_does_not_stop_the_run(data, tmp_path):
    ids = [s.sample_id for s in data.samples.samples]
    model = Counting(bad=ids)
    run_all(data, model, RunFolder(tmp_path / "run"))
    assert model.asked == []
    assert len(RunFolder(tmp_path / "run").predictions()) == 24


def test_batches_come_from_the_whole_list_sorted_by_cost():
    requests = [Request(f"s{i}", "generate") for i in range(5)]
    cost = {"s0": 1, "s1": 9, "s2": 1, "s3": 5, "s4": 9}
    cuts = cut(requests, lambda r: cost[r.sample_id], 2)
    assert [[r.sample_id for r in batch] for batch in cuts] == [["s1", "s4"], ["s3", "s0"], ["s2"]]
    assert cut(requests[::-1], lambda r: cost[r.sample_id], 2) == cuts


def test_another_batch_size_in_the_same_folder_is_refused(data, tmp_path):
    folder = RunFolder(tmp_path / "run")
    run_all(data, Counting(), folder)
    with pytest.raises(CxrbenchError, match="batches of 4, not 8"):
        run_all(data, Counting(), folder, batch_size=8)


def test_other_settings_in_the_same_folder_are_refused_with_the_difference(data, tmp_path):
    folder = RunFolder(tmp_path / "run")
    run_all(data, Counting(), folder)
    with pytest.raises(CxrbenchError, match="seed: 0 -> 1"):
        run_all(data, Counting(), folder, seed=1)


def test_restricted_inputs_reach_every_model_alike(data, tmp_path):
    folder = RunFolder(tmp_path / "run")
    run_all(data, Counting(), folder, inputs="image")
    assert all(row.inputs == () for row in folder.predictions().values())
    assert folder.manifest().identity["inputs"] == "image"


def test_a_model_that_cannot_do_what_is_asked_is_refused(data):
    model = Counting()
    model.kinds = frozenset({"embed_image"})
    with pytest.raises(CxrbenchError, match="cannot answer 'generate'"):
        plan_run(data, model, RunSettings())


def test_a_model_that_answers_for_another_sample_is_stopped(data, tmp_path):
    class Swapped(Counting):
        def generate(self, batch, prepared):
            return super().generate(batch, prepared[::-1])

    with pytest.raises(CxrbenchError, match="other samples than it was asked"):
        run_all(data, Swapped(), RunFolder(tmp_path / "run"))


def test_random_reports_do_not_depend_on_batches(data, tmp_path):
    folders = []
    for size in (1, 7):
        model = RandomReport(ModelOptions())
        model.fit(lambda: data.pool)
        folders.append(RunFolder(tmp_path / str(size)))
        run_all(data, model, folders[-1], batch_size=size)
    assert texts(folders[0]) == texts(folders[1])


def test_the_pool_is_part_of_the_identity_of_a_model_that_looks_at_it(data):
    model = NearestImage(ModelOptions())
    model.fit(lambda: data.pool)
    assert "pool" in plan_run(data, model, RunSettings()).manifest.identity
    assert "pool" not in plan_run(data, Counting(), RunSettings()).manifest.identity


def test_the_manifest_survives_json(data):
    identity = plan_run(data, Counting(), RunSettings()).manifest.identity
    assert json.loads(json.dumps(identity)) == identity


def test_seeds_belong_to_samples():
    assert sample_seed(0, "a") != sample_seed(0, "b") != sample_seed(1, "b")
    assert 0 <= sample_seed(0, "a") < 2**63


def test_generation_settings_are_the_tasks_with_the_users_on_top():
    assert generation_settings({"max_new_tokens": 5}, {"temperature": 0.7}) == Generation(5, 0.7)
    with pytest.raises(CxrbenchError, match="'beams' is not a generation setting"):
        generation_settings({"beams": 4}, None)
    for value in ("many", 2.5, True):
        with pytest.raises(CxrbenchError, match="max_new_tokens must be a whole number"):
            generation_settings({"max_new_tokens": value}, None)


def test_going_on_looks_at_each_answered_image_once(data, tmp_path, monkeypatch):
    import cxrbench.runner as runner

    folder, model = RunFolder(tmp_path / "run"), Counting()
    run_all(data, model, folder)
    calls = []
    monkeypatch.setattr(runner, "pixel_key", lambda images: calls.append(images) or pixel_key(images))
    _, answered = run_all(data, model, folder)
    assert answered == 0
    assert len(calls) == 24


def test_a_decoder_that_is_there_now_answers_what_had_none(data, tmp_path):
    class NoDecoder(Counting):
        def prepare(self, request):
            made = super().prepare(request)
            return replace(made, failure=("no_decoder", "JPEG 2000")) if request.sample_id in self.bad else made

    first = data.samples.samples[0].sample_id
    folder, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    run_all(data, Counting(), whole)
    run_all(data, NoDecoder(bad=[first]), folder)
    segments = len(folder.manifest().circumstances)
    _, answered = run_all(data, NoDecoder(bad=[first]), folder)
    assert answered == 0
    assert len(folder.manifest().circumstances) == segments
    assert len(folder.batches()) == 6
    _, answered = run_all(data, Counting(), folder)
    assert answered == 1
    assert texts(folder) == texts(whole)
