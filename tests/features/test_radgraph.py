"""RadGraph: equal to the package on recorded texts, to a plain implementation on random weights, and to itself."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from cxrbench.data.phantom import annotate, study_id
from cxrbench.errors import CxrbenchError
from cxrbench.features import embedded
from cxrbench.features.base import Pairs, Resources
from cxrbench.features.radgraph import RadGraphAnnotations
from cxrbench.features.radgraph_archive import read_shape
from cxrbench.features.radgraph_net import UNUSED, DyGIE, RadGraph, load, pairs
from cxrbench.features.radgraph_text import annotation, as_token, words
from cxrbench.features.store import Store
from cxrbench.features.weights import choose

FOLDER = embedded.folder("annotator", "phantom")
GOLDEN = json.loads((Path(__file__).parent / "golden_radgraph.json").read_text())["cases"]
TEXTS = [case["report"] for case in GOLDEN]


@pytest.fixture(scope="module")
def annotator():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load(FOLDER)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def found(annotator):
    return annotator.annotate(TEXTS)


def test_annotations_are_those_of_the_package(found):
    assert found == [{"text": case["text"], "entities": case["entities"]} for case in GOLDEN]
    assert sum(len(entity["relations"]) for each in found for entity in each["entities"].values()) > 100
    assert max(len(each["text"].split()) for each in found) > 510, "one is longer than the encoder takes at once"


@pytest.mark.parametrize("budget", [1, 100, 100_000])
def test_nothing_depends_on_the_batch(annotator, found, budget):
    order = torch.randperm(len(TEXTS), generator=torch.Generator().manual_seed(budget)).tolist()
    again = annotator.annotate([TEXTS[i] for i in order] + TEXTS[:3], budget=budget)
    assert again == [found[i] for i in order] + found[:3]


def test_nothing_to_annotate(annotator):
    assert annotator.annotate([]) == []
    assert annotator.annotate([" \n"]) == [{"text": "", "entities": {}}]
    assert annotator.annotate([""])[0]["text"] == "None"


def test_it_reads_phantom_reports(annotator):
    names = [study_id(0, "test", index) for index in range(1000, 1060)]
    true = [annotate(name, part) for name in names for part in ("findings", "impression")]
    said = annotator.annotate([each["text"] for each in true])
    hits = total = 0
    for a, b in zip(said, true, strict=True):
        mine, yours = ({json.dumps(e) for e in each["entities"].values()} for each in (a, b))
        hits, total = hits + 2 * len(mine & yours), total + len(mine) + len(yours)
    assert hits / total > 0.9, "entities with all their relations"


def test_the_feature_annotates_both_sides_and_keeps_them(tmp_path):
    both = Pairs(["1"], ["Mild pulmonary edema."], ["No pneumothorax."])
    chosen = choose("radgraph", "phantom")
    settings = {"weights": chosen.name, "hash": chosen.hash}
    made = [RadGraphAnnotations().extract(both, settings, Resources(Store(tmp_path))) for _ in range(2)]
    assert made[0] == made[1]
    assert made[0].predictions[0]["entities"]["3"]["label"] == "OBS-DP"
    assert [entity["label"] for entity in made[0].references[0]["entities"].values()] == ["OBS-DA"]


# Words


@pytest.mark.parametrize(
    ("report", "kind", "expected"),
    [
        ("Heart size normal.No edema", "radgraph", "Heart size normal . No edema"),
        ("X-ray, 3.5 cm (AP/PA)?", "radgraph", "X-ray , 3 . 5 cm ( AP / PA ) ?"),
        ("a;b - c", "radgraph", "a;b - c"),
        ("", "radgraph", "None"),
        ("X-ray, 3.5 cm (AP/PA).", "radgraph-xl", "X - ray , 3 . 5 cm ( AP / PA ) ."),
        ("50%. it's \\n new", "radgraph-xl", "50 % . it ' s new"),
        ("", "radgraph-xl", "None"),
    ],
)
def test_words(report, kind, expected):
    assert words(report, kind) == expected.split()


def test_tokens_of_slashed_marks():
    assert [as_token(word) for word in ("/.", "/?", "/", "a/.")] == [".", "?", "/", "a/."]


def test_json_form():
    made = annotation(["No", "pleural", "effusion"], [(1, 1, "ANAT-DP"), (2, 2, "OBS-DA")], [(1, 0, "located_at")])
    assert made["entities"]["2"] == {
        "tokens": "effusion",
        "label": "OBS-DA",
        "start_ix": 2,
        "end_ix": 2,
        "relations": [["located_at", "1"]],
    }


# The network against one that does everything the long way, one report at a time


def plain(net, tokenizer, said):
    """DyGIE++ as published: all spans spelt out, best ones kept, all pairs scored, entities looked up at the end."""
    shape = net.shape
    room = shape.longest - 2
    pieces = [tokenizer(as_token(word), add_special_tokens=False)["input_ids"] for word in said]
    flat = [piece for each in pieces for piece in each]
    states = []
    for i in range(0, len(flat), room):
        row = [tokenizer.cls_token_id, *flat[i : i + room], tokenizer.sep_token_id]
        states += list(net.bert(input_ids=torch.tensor([row])).last_hidden_state[0, 1:-1])
    x, at = [], 0
    for each in pieces:
        x.append(torch.stack(states[at : at + len(each)]).mean(0) if each else net.width.weight.new_zeros(net.size))
        at += len(each)

    def scores(scorer, inputs):
        for layer in scorer.hidden:
            inputs = layer(inputs).relu()
        return scorer.out(inputs)

    spans = [(a, b) for a in range(len(said)) for b in range(a, min(a + shape.widest, len(said)))]
    vectors = torch.stack([torch.cat([x[a], x[b], net.width.weight[b - a]]) for a, b in spans])
    none = torch.zeros(len(spans), 1, dtype=vectors.dtype)
    label = torch.cat([none, scores(net.tagger, vectors)], 1).argmax(1).tolist()
    mention = scores(net.pruner, vectors)[:, 0]
    count = -int(-len(said) * shape.spans_per_word // 1)
    kept = sorted(mention.topk(max(count, 1)).indices.tolist())
    entities = [(*span, shape.entities[kind]) for span, kind in zip(spans, label, strict=True) if kind]
    number = {span: i for i, span in enumerate(span for span, kind in zip(spans, label, strict=True) if kind)}
    related = []
    for i in kept:
        for j in kept:
            both = torch.cat([vectors[i], vectors[j], vectors[i] * vectors[j]])
            row = [0.0, *(scores(net.relator, both) + mention[i] + mention[j]).tolist()]
            kind = row.index(max(row)) - 1
            if kind >= 0 and spans[i] in number and spans[j] in number:
                related.append((number[spans[i]], number[spans[j]], shape.relations[kind]))
    return annotation(said, entities, related)


@pytest.fixture(scope="module", params=[(0.5, 512), (1.0, 12), (0.3, 9)], ids=lambda p: f"keep{p[0]}-fold{p[1]}")
def random_annotator(request, annotator):
    """Other settings, random weights, a cut-off so that about every second span is an entity."""
    keep, longest = request.param
    shape = replace(
        annotator.shape, widest=3, width_rows=5, width_size=6, hidden=(10, 7, 5), spans_per_word=keep, longest=longest
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        config = BertConfig(
            vocab_size=len(annotator.tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=24, max_position_embeddings=longest,
        )  # fmt: skip
        net = DyGIE(shape, config).double()
        for scorer in (net.tagger, net.pruner, net.relator):
            for layer in (*scorer.hidden, scorer.out):
                torch.nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5)
                torch.nn.init.normal_(layer.bias, std=0.3)
    return RadGraph(net, annotator.tokenizer)


@torch.inference_mode()
def test_shortcuts_change_nothing(random_annotator):
    texts = [" ".join(text.split()[:20]) for text in TEXTS[:14]] + ["effusion", "\u200b", "\u200b edema ."]
    said = random_annotator.annotate(texts)
    assert said == [plain(random_annotator.net, random_annotator.tokenizer, words(t, "radgraph")) for t in texts]
    entities = [entity for each in said for entity in each["entities"].values()]
    relations = [tuple(r) for entity in entities for r in entity["relations"]]
    assert 0.1 < len(entities) / sum(len(each["text"].split()) for each in said) < 2.9
    assert len({kind for kind, _ in relations}) > 1


def test_pairs_stay_within_their_report():
    left, right = pairs(torch.tensor([0, 0, 2]))
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)]
    assert [len(each) for each in pairs(torch.zeros(0, dtype=torch.long))] == [0, 0]


# The archive


@pytest.fixture
def archive(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "radgraph")
    return tmp_path / "radgraph"


def test_settings_are_read(archive):
    shape = read_shape(archive)
    assert shape.kind == "radgraph"
    assert (shape.entities[0], len(shape.entities), len(shape.relations)) == ("", 5, 3)
    config = json.loads((archive / "config.json").read_text())
    assert shape.widest == config["dataset_reader"]["max_span_width"]
    assert shape.spans_per_word == config["model"]["modules"]["relation"]["spans_per_word"]
    config["model"]["feedforward_params"]["hidden_dims"] = [48, 49]
    (archive / "config.json").write_text(json.dumps(config))
    with pytest.raises(CxrbenchError, match="do not fit the network"):
        load(archive)


def test_the_encoder_may_lie_elsewhere(archive, annotator):
    bert = archive.parent / "elsewhere"
    (archive / "bert").rename(bert)
    with pytest.raises(CxrbenchError, match="the encoder of this RadGraph is 'bert'"):
        load(archive)
    assert load(archive, bert).annotate(TEXTS[:2]) == annotator.annotate(TEXTS[:2])


def test_heads_of_several_model_types(archive, annotator):
    state = torch.load(archive / "weights.th", weights_only=True)
    more = {name.replace("radgraph__", "other__"): value for name, value in state.items() if "radgraph__" in name}
    torch.save(state | more, archive / "weights.th")
    for part in ("ner", "relation"):
        file = archive / f"vocabulary/radgraph__{part}_labels.txt"
        shutil.copy(file, file.with_name(f"other__{part}_labels.txt"))
    with pytest.raises(CxrbenchError, match=r"model types \['other', 'radgraph'\], and none is asked for"):
        load(archive)
    assert load(archive, kind="radgraph").annotate(TEXTS[:2]) == annotator.annotate(TEXTS[:2])


def test_half_precision_is_read(archive, found):
    state = torch.load(archive / "weights.th", weights_only=True)
    torch.save({name: value.half() for name, value in state.items()}, archive / "weights.th")
    made = load(archive)
    assert made.net.width.weight.dtype == torch.float32
    assert sum(a == b for a, b in zip(made.annotate(TEXTS[:20]), found, strict=False)) >= 19


def test_heads_that_are_not_run_are_in_the_file_as_in_the_published_ones():
    state = torch.load(FOLDER / "weights.th", weights_only=True)
    unused = [name for name in state if name.startswith(UNUSED)]
    assert len(unused) == 16
    assert not any(state[name].any() for name in unused)


def damage(archive, what):
    """Break one thing about an archive."""
    file = archive / "config.json"
    config = json.loads(file.read_text())
    state = torch.load(archive / "weights.th", weights_only=True)
    if what == "a tensor":
        del state[next(name for name in state if name.startswith("_relation"))]
    elif what == "another tensor":
        state["_gate.weight"] = torch.zeros(2)
    elif what == "a setting":
        del config["model"]["feature_size"]
    elif what == "coreference":
        config["model"]["modules"]["coref"]["coref_prop"] = 2
    file.write_text(json.dumps(config))
    torch.save(state, archive / "weights.th")
    if what == "no null":
        (archive / "vocabulary/radgraph__ner_labels.txt").write_text("OBS-DP\nANAT-DP\n")
    elif what == "no labels":
        shutil.rmtree(archive / "vocabulary")
    elif what == "no config":
        file.unlink()
    elif what == "no weights":
        (archive / "weights.th").unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("a tensor", r"1 missing \(pruner"),
        ("another tensor", r"1 unknown \(_gate\.weight\)"),
        ("a setting", "KeyError 'feature_size'"),
        ("coreference", "coreference links"),
        ("no null", "first entity label is 'OBS-DP'"),
        ("no labels", r"model types \[\]"),
        ("no config", "config.json is missing"),
        ("no weights", "no such file of weights"),
    ],
)
def test_archives_that_do_not_fit_are_refused(archive, what, message):
    damage(archive, what)
    with pytest.raises(CxrbenchError, match=message):
        load(archive)
