"""Small real networks through the bench: forced lengths, image tokens, precision, memory; and the command itself."""

import json
import re

import pytest

from cxrbench.config import load_config
from cxrbench.errors import CxrbenchError
from cxrbench.models.base import ModelOptions
from cxrbench.models.shapes import SHAPES
from cxrbench.throughput import roofline as roof
from cxrbench.throughput.bench import Bench
from cxrbench.throughput.configuration import Configuration, Trace
from cxrbench.throughput.images import pool
from cxrbench.throughput.protocol import Rules, measure
from cxrbench.throughput.sizes import shape_of
from tests.commands import cli, small_run  # noqa: F401  (a fixture)

torch = pytest.importorskip("torch")

QUICK = Rules(blocks=2, seconds=0, block_seconds=0.01, agreeing=2, warm_most=2)
COMMON = {"load_format": "dummy", "tokens": 6, "batch": 4}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return pool("demo-findings", 8, load_config(None), tmp_path_factory.mktemp("images"))


@pytest.fixture
def bench(samples):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = Bench(samples, load_config(None))
    yield made
    made.close()
    torch.set_num_threads(threads)


def test_drawn_images_are_real_files(samples):
    assert all(image.path.endswith(".png") for sample in samples for image in sample.images)


@pytest.mark.parametrize("engine", ["transformers", "slots"])
def test_lengths_and_image_tokens_come_out_as_asked(bench, engine):
    arms = bench.arms(
        [
            Configuration("phi", "shape:small-phi", engine, **COMMON),
            Configuration("larger image", "shape:small-llama", engine, image_tokens=144, **COMMON),
            Configuration("demo", "demo", engine, tokens=9, batch=4),
        ]
    )
    session = measure(arms, QUICK)
    assert not session.discarded
    found = {arm.name: session.of(arm.name)[0] for arm in arms}
    assert [block.output_tokens / block.reports for block in found.values()] == [6, 6, 9]
    assert found["larger image"].image_tokens == 144 * found["larger image"].reports
    assert all(block.invalid == () for block in found.values())
    assert all(block.joules is None for block in found.values())  # no counter here, and no zero
    for block in found.values():
        assert block.engine_seconds < block.seconds
        assert sum(block.stages[name] for name in ("encode", "prefill", "decode")) <= block.engine_seconds


@pytest.mark.parametrize("engine", ["transformers", "slots"])
def test_a_trace_ends_every_row_at_its_own_length(bench, engine):
    """On slots three texts at a time, refilled from all eight; what ends where is asserted text by text."""
    trace = Trace((3, 9, 1, 5, 4, 7, 2, 8), "written down")
    wanted = Configuration("t", "shape:small-phi", engine, batch=3, lengths="trace", trace=trace, load_format="dummy")
    (arm,) = bench.arms([wanted])
    seen = []
    generate = arm.model.generate
    arm.model.generate = lambda *given: seen.append(generate(*given)) or seen[-1]
    block = arm.block(8)
    assert block.invalid == ()
    assert [each.output_tokens for result in seen for each in result.predictions] == list(trace.values)
    assert [result.timing.size for result in seen] == ([8] if engine == "slots" else [3, 3, 2])
    assert {result.timing.slots for result in seen} == ({3} if engine == "slots" else {None})


@pytest.mark.parametrize("engine", ["transformers", "slots"])
def test_a_trace_that_is_not_followed_makes_a_block_invalid(bench, engine):
    trace = Trace((3, 9, 1, 5), "written down")
    wanted = Configuration("t", "shape:small-phi", engine, batch=4, lengths="trace", trace=trace, load_format="dummy")
    (arm,) = bench.arms([wanted])
    announce = arm.announce
    arm.announce = lambda lengths: announce({key: value + (value == 5) for key, value in lengths.items()})
    assert arm.block(4).invalid[0].startswith("1 of 4 lengths did not come out as forced")


def test_every_configuration_is_measured_on_its_own_threads(bench):
    """torch has one number for all: the network loaded last would decide it for the others, as demo does with its 1."""
    torch.set_num_threads(2)
    settings = {"one": {"threads": "1"}, "as torch has it": {}}
    small = {"load_format": "dummy", "tokens": 3, "batch": 1}
    arms = bench.arms(
        [Configuration(name, "shape:small-phi", settings=each, **small) for name, each in settings.items()]
        + [Configuration("demo", "demo", tokens=3)]
        + [Configuration("demo on two", "demo", tokens=3, settings={"threads": "2"})]
    )
    seen = {}
    for each in arms * 2:
        stock = type(each.model).generate
        each.model.generate = lambda number, prepared, arm=each, stock=stock: (
            seen.setdefault(arm.name, set()).add(torch.get_num_threads()) or stock(arm.model, number, prepared)
        )
        each.block(1)
    assert seen == {"one": {1}, "as torch has it": {2}, "demo": {1}, "demo on two": {2}}
    assert [each.about["threads"] for each in arms] == [1, 2, 1, 2]
    bench.close()
    assert torch.get_num_threads() == 2


def test_lengths_that_do_not_come_out_make_a_block_invalid(bench):
    (arm,) = bench.arms([Configuration("phi", "shape:small-phi", **COMMON)])
    arm.tokens = [7] * 8
    assert arm.block(4).invalid == ("4 of 4 lengths did not come out as forced (6 tokens for 7)",)


def test_logits_that_are_not_finite_make_a_block_invalid(bench):
    (arm,) = bench.arms([Configuration("phi", "shape:small-phi", **COMMON)])
    with torch.no_grad():
        arm.model.engine.load().module.lm_head.weight.fill_(float("nan"))
    assert "NaN or infinite logits" in arm.block(4).invalid[0]


def test_equal_characters_are_tokens_of_the_models_own_tokenizer(bench):
    (arm,) = bench.arms([Configuration("demo", "demo", lengths="equal-chars", chars=60, batch=4)])
    texts = [sample.target for sample in bench.samples]
    tokenizer = arm.model.adapter.processing.tokenizer
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    assert set(arm.tokens) == {round(60 * tokens / sum(map(len, texts)))}
    with pytest.raises(CxrbenchError, match="has no tokenizer here"):
        bench.arms([Configuration("x", "shape:small-phi", lengths="equal-chars", chars=60, load_format="dummy")])


def test_a_model_that_does_not_fit_says_how_much_is_missing(bench):
    wanted = Configuration("huge", "shape:llava-rad", dtype="fp32", batch=4096, load_format="dummy")
    with pytest.raises(CxrbenchError, match=r"needs [\d.]+ GB, [\d.]+ GB are free, [\d.]+ GB are missing"):
        bench.arms([wanted])


def test_models_that_do_not_fit_together_are_refused_before_the_first_is_loaded(bench, monkeypatch):
    from cxrbench.engines import slots_size

    monkeypatch.setattr(slots_size, "free_bytes", lambda device: 20e9)
    wanted = [Configuration(n, f"shape:{n}", dtype="bf16", load_format="dummy") for n in ("vicuna-576", "llava-rad")]
    with pytest.raises(CxrbenchError, match=r"vicuna-576, llava-rad \(weights alone\) does not fit: it needs 27.7"):
        bench.arms(wanted)
    assert not bench._loaded


def test_the_largest_batch_is_found_and_capped_by_the_pool(bench):
    (arm,) = bench.arms([Configuration("max", "shape:small-phi", batch=0, tokens=6, load_format="dummy")])
    assert arm.batch == 8
    assert arm.about["fitting"] > 8
    bench.samples = bench.samples[:7]
    (arm,) = bench.arms([Configuration("max", "shape:small-phi", batch=0, tokens=6, load_format="dummy")])
    assert arm.batch == 4  # or blocks would not be whole batches of every arm


def test_memory_is_taken_apart(bench, monkeypatch):
    """A processor's allocator tells nothing: its answers are made up, weights and slots are the network's own."""
    from cxrbench.engines import memory

    found = bench.arms([Configuration(n, "shape:small-phi", n, **COMMON) for n in ("transformers", "slots")])
    blocks = [arm.block(4) for arm in found]
    module = found[0].model.engine.load().module
    weights = sum(each.nbytes for each in (*module.parameters(), *module.buffers()))
    assert [block.memory.weights for block in blocks] == [weights, weights]
    assert [block.memory.workspace for block in blocks] == [None, None]
    positions = found[1].model.engine._pool[0].room
    assert blocks[1].memory.kv == SHAPES["small-phi"].decoder.kv_values() * 4 * 4 * positions
    shape, load = found[0].shape, roof.Load(6, "fp32")
    assert blocks[0].memory.kv == roof.memory_bytes(shape, 4, load) - roof.weight_bytes(shape, "fp32")
    monkeypatch.setattr(memory, "allocated", lambda device: 2 * weights + blocks[1].memory.kv + 1000)
    parts = found[1].memory()(10 * weights)
    assert parts.others == weights + 1000
    assert parts.workspace == 10 * weights - parts.others - parts.weights - parts.kv


def test_alone_each_has_the_device_to_itself(bench, monkeypatch):
    """Slots of the others are given back; their weights leave only where all would be too much."""
    from cxrbench.engines import memory, slots_size

    parked = []
    monkeypatch.setattr(memory, "park", lambda engine: parked.append(("park", engine)))
    monkeypatch.setattr(memory, "unpark", lambda engine, device: parked.append(("back", engine)))
    small = {"load_format": "dummy", "tokens": 3, "batch": 2}
    wanted = [Configuration(n, f"shape:{n}", "slots", **small) for n in ("small-phi", "small-llama")]
    phi, llama = bench.arms(wanted, alone=True)
    assert phi.settle
    phi.block(2)
    llama.block(2)
    pools = [each.model.engine._pool is not None for each in (phi, llama)]
    assert (pools, parked) == ([False, True], [])
    monkeypatch.setattr(slots_size, "free_bytes", lambda device: int(1.3 * llama.block(2).memory.weights))
    phi, llama = bench.arms(wanted, alone=True)
    parked.clear()
    for each in (phi, llama, llama):
        each.block(2)
    engines = [each.model.engine for each in (phi, llama)]
    assert parked == [("park", engines[1]), ("back", engines[0]), ("park", engines[0]), ("back", engines[1])]
    assert not any(each.settle for each in bench.arms(wanted[:1]))


def test_a_network_that_was_put_aside_answers_as_before(bench):
    from cxrbench.engines import memory

    (arm,) = bench.arms([Configuration("phi", "shape:small-phi", "slots", **COMMON)])
    seen = []
    generate = arm.model.generate
    arm.model.generate = lambda *given: seen.append(generate(*given)) or seen[-1]
    for _ in range(2):
        arm.rewind()
        arm.block(4)
        memory.give_slots_back(arm.model.engine)
        memory.park(arm.model.engine)
        memory.unpark(arm.model.engine, "cpu")
    texts = [[each.text for each in result.predictions] for result in seen]
    assert texts[0] == texts[1]


def test_the_largest_batch_is_that_of_an_empty_device(bench, monkeypatch):
    """What an earlier mode left in memory is put away before the room is measured, or it would count against it."""
    from cxrbench.engines import slots_size

    seen = []
    monkeypatch.setattr(slots_size, "free_bytes", lambda device: seen.append(len(bench._loaded)) or 10**9)
    first = Configuration("first", "shape:small-llama", "slots", **COMMON)
    bench.arms([first])
    seen.clear()
    bench.arms([Configuration("max", "shape:small-phi", batch=0, tokens=6, load_format="dummy")])
    assert seen[0] == 0
    bench.arms([first])
    seen.clear()
    assert bench.fit([first])
    assert seen == [0]


@pytest.mark.parametrize(
    ("more", "longest"),
    [
        ({"lengths": "equal-chars", "chars": 4000}, 4000),
        ({"lengths": "natural", "generation": {"max_new_tokens": 777}}, 777),
        ({"tokens": 333}, 333),
    ],
)
def test_the_room_a_text_needs_is_that_of_its_length(bench, monkeypatch, more, longest):
    from cxrbench.engines import ceilings

    needs = []
    monkeypatch.setattr(ceilings, "make_room", lambda what, need, free: needs.append(need))
    (arm,) = bench.arms([Configuration("x", "demo", batch=2, **more)])
    if arm.tokens is not None:
        assert (longest == 333) == (max(arm.tokens) == 333)
        longest = max(arm.tokens)
    assert needs == [roof.memory_bytes(arm.shape, 2, roof.Load(longest, arm.dtype))]


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_have_the_sizes_of_the_networks_they_stand_for(name):
    from cxrbench.models.shape import ShapeModel

    adapter = ShapeModel(ModelOptions(argument=name, load_format="dummy"))
    shape, found = SHAPES[name], shape_of(adapter)
    assert (found.tower, found.decoder) == (shape.tower, shape.decoder)
    module = adapter.build()
    count = sum(parameter.numel() for parameter in module.parameters())
    projector = sum(each.numel() for each in module.model.multi_modal_projector.parameters())
    assert count - projector == pytest.approx(shape.parameters, rel=2e-4)  # a mask token, a norm
    language = sum(each.numel() for each in module.model.language_model.parameters())
    assert language == shape.decoder.body + shape.decoder.embedding


def test_shapes_are_the_published_models():
    from cxrbench.engines.build import make_model

    for name in ("slava", "llava-rad"):
        published = make_model(name, ModelOptions(load_format="dummy", device="cpu")).adapter
        found = shape_of(published)
        assert (found.tower, found.decoder) == (SHAPES[name].tower, SHAPES[name].decoder)


def test_a_shape_has_no_weights_and_says_so():
    from cxrbench.models.shape import ShapeModel

    with pytest.raises(CxrbenchError, match="no weights but random ones"):
        ShapeModel(ModelOptions(argument="slava"))


WORDS = ("throughput", "--device", "cpu", "--blocks", 2, "--seconds", 0, "--block-seconds", 0.01, "--images", 8)


def test_the_command_measures_prints_and_writes_a_page_without_network(cli, tmp_path):
    words = (*WORDS, "--models", "demo,demo", "--batch-sizes", "1,4", "--tokens", 6, "--set", "threads=1")
    code, out, err = cli(*words, "--price-per-hour", 2, "-o", "speed.json")
    assert code == 0, err
    assert re.search(r"demo#1 over demo#2 +x\d", out)
    assert "per report at the given price" in out
    assert max(map(len, out.splitlines())) <= 100
    result = json.loads((tmp_path / "speed.json").read_text())
    assert [entry["arms"][0]["batch"] for entry in result["modes"]] == [1, 4]
    assert result["machine"]["ceilings"]["fp32"]["bandwidth"] > 0
    arm = result["modes"][0]["arms"][0]
    assert 0 < arm["roofline"]["reached"] < 1
    assert "energy" not in arm
    blocks = result["sessions"][0]["blocks"]
    assert len(blocks) == 4
    assert all(block["before"]["joules"] is None for block in blocks)

    from cxrbench.throughput.page import page

    made = page(result)
    assert made == page(result)
    assert "default-src 'none'" in made
    outside = made.replace(made[made.index("<script>") : made.index("</script>")], "", 1)
    assert not re.search(r"""(src|href)=["']?https?:""", outside)
    assert "roofline" in outside


def test_single_stream_has_latencies(cli):
    words = (*WORDS, "--models", "demo", "--tokens", 6, "--scenario", "single-stream", "--json")
    code, out, err = cli(*words)
    assert code == 0, err
    arm = json.loads(out)["modes"][0]["arms"][0]
    assert arm["latency"]["mean"] > arm["ttft"]["mean"] > arm["tpot"]["mean"] > 0


def test_the_paper_needs_nothing(cli):
    code, out, err = cli("throughput", "--paper")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    assert "19.62 T" in out
    assert json.loads(cli("throughput", "--paper", "--json")[1])[0]["title"] == "What a report costs"


def test_quality_stands_against_speed(cli, tmp_path):
    from cxrbench.cli.throughput_measured import quality_point

    run, _ = small_run(cli, tmp_path)
    with pytest.raises(CxrbenchError, match="no speed or no primary score"):
        quality_point(run)  # a model that looks its text up has no speed
    from cxrbench.throughput.page import page

    empty = {"kind": "throughput", "name": "n", "about": "", "cxrbench": "0", "rules": {"blocks": 2}, "warnings": []}
    point = {"model": "quick one", "reports_per_s": 3.0, "metric": "bleu:raw bleu_4", "value": 0.2}
    made = page({**empty, "modes": [], "anatomies": [], "sessions": []}, [point])
    assert "Quality against speed" in made
    assert "quick one" in made
    with pytest.raises(CxrbenchError, match="no result of"):
        page({"kind": "run"})


def test_an_experiment_that_is_not_there(cli):
    code, _, err = cli("throughput", "--experiment", "missing.yaml")
    assert (code, "there is no speed experiment 'missing.yaml'" in err, "slava-6x" in err) == (2, True, True), err


ANATOMY = """name: tiny
images: 4
rules: {blocks: 2, seconds: 0, block_seconds: 0.01, agreeing: 2, warm_most: 2}
configurations:
  slow: {model: "shape:small-phi", tokens: 3, batch: 1, load_format: dummy, settings: {threads: "1"}}
  fast: {model: "shape:small-phi", tokens: 3, batch: 2, engine: slots, load_format: dummy, settings: {threads: "1"}}
anatomies:
  - {name: batch and engine, slow: slow, fast: fast, order: [batch, engine]}
"""


@pytest.mark.slow
def test_an_experiment_with_an_anatomy_is_measured_shown_and_drawn(cli, tmp_path):
    (tmp_path / "small.yaml").write_text(ANATOMY)
    code, out, err = cli("throughput", "--experiment", "small.yaml", "--device", "cpu", "-o", "small.html")
    assert code == 0, err
    assert "no residual factor" in out
    assert max(map(len, out.splitlines())) <= 100
    page = (tmp_path / "small.html").read_text()
    assert "product over end to end, reverse order" in page
    assert "anatomy-0-1" in page


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "what is to be measured?"),
        (("--experiment", "x.yaml", "--task", "demo-findings"), 2, "the experiment's file decides --task"),
        (("--experiment", "slava-6x", "--only", "mached sweep"), 2, "did you mean 'matched sweep'"),
        (("--models", "demo", "--only", "sweep"), 2, "only an experiment has modes"),
        (("--models", "demo", "--experiment", "x.yaml"), 2, "cannot both be given"),
        (("--models", "always-normal"), 2, "always-normal has no network: there is no speed to measure"),
        (("--models", "demmo"), 2, "did you mean 'demo'"),
        (("--models", "demo", "--batch-sizes", "1,x"), 2, "'1,x' are no batch sizes"),
        (("--models", "demo", "--lengths", "long"), 2, "lengths: Input should be"),
        (("--models", "demo", "-o", "away/speed.html"), 2, "there is no folder away"),
        (("--models", "demo", "-o", "speed.pdf"), 2, "speed.pdf is neither .html nor .json"),
        (("--models", "demo", "--scenario", "single-stream", "--batch-sizes", "8"), 2, "one report at a time"),
        (("--models", "slava", "--load-format", "dummy", "--lengths", "natural"), 2, "random weights end a text"),
        (("--models", "demo", "--energy", "--tokens", 6), 3, "energy was asked for and cannot be given: the dev"),
    ],
)  # fmt: skip
def test_bad_calls_get_one_sentence(cli, words, code, message):
    found, _, err = cli(*WORDS, *words)
    assert (found, message in err) == (code, True), err


def test_a_device_that_nobody_knows_the_figures_of_is_named(cli):
    found, _, err = cli("throughput", "--models", "demo", "--plan", "H2000")
    assert (found, "did you mean 'H200'" in err) == (2, True), err
