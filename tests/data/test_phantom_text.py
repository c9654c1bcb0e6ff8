"""Phantom reports: prose, annotations and labels agree, whatever the seed; the reader gives the labels back."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrbench.data import phantom_phrases as phrases
from cxrbench.data.phantom import annotate, report, studies, study, study_id, truth
from cxrbench.data.phantom_markup import PUNCTUATION, Passage, article, fill, read, rename
from cxrbench.data.phantom_phrases import Noun
from cxrbench.data.phantom_text import frame
from cxrbench.data.phantom_world import LABELS_OF, case
from cxrbench.features.phantom_labels import read as read_report
from cxrbench.metrics.base import Corpus, Pairs
from cxrbench.metrics.bleu import Bleu

some = settings(max_examples=80)
ids = st.builds(study_id, st.integers(0, 2**32), st.sampled_from(["train", "validate", "test"]), st.integers(0, 4000))


def positive(labels):
    return {name: value for name, value in labels.items() if value}


def test_the_reader_gives_the_labels_back():
    for each in studies("train", 1000, seed=17):
        findings, impression = each.sections["findings"], each.sections["impression"]
        whole = read_report(f"{findings} {impression}")
        where = (each.study_id, findings, impression)
        assert whole.labels == each.labels["phantom"], where
        assert whole.unread == (), where
        assert read_report(findings).fine == each.labels["phantom-fine"], where
        # Findings alone and impression alone name all that is present or suspected.
        assert positive(read_report(findings).labels) == positive(each.labels["phantom"]), where
        assert positive(read_report(impression).labels) == positive(each.labels["phantom"]), where


@some
@given(ids)
def test_the_reader_gives_the_labels_back_for_any_seed(name):
    match = re.fullmatch(r"ph\d+-s(\d+)-(\w+)-(\d+)", name)
    each = study(int(match[1]), match[2], int(match[3]))
    whole = read_report(each.sections["findings"] + "\n" + each.sections["impression"])
    assert whole.labels == each.labels["phantom"]
    assert whole.unread == ()


@some
@given(ids, st.sampled_from(["findings", "impression"]))
def test_annotations_fit_their_text(name, section):
    passage: Passage = getattr(report(name), section)
    found = annotate(name, section)
    words = found["text"].split()
    assert re.sub(r" ([.,])", r"\1", found["text"]) == passage.text
    assert study_of(name).sections[section] == passage.text
    taken: set[int] = set()
    for number, entity in found["entities"].items():
        span = range(entity["start_ix"], entity["end_ix"] + 1)
        assert " ".join(words[i] for i in span) == entity["tokens"]
        assert not taken & set(span)
        taken |= set(span)
        assert entity["label"] in ("OBS-DP", "OBS-U", "OBS-DA", "ANAT-DP")
        for kind, target in entity["relations"]:
            assert kind in ("modify", "located_at", "suggestive_of")
            assert target in found["entities"]
            assert target != number
            anatomy = found["entities"][target]["label"] == "ANAT-DP"
            assert anatomy or kind != "located_at"
    assert not PUNCTUATION & {words[i] for i in taken}


def study_of(name):
    true = truth(name)
    return study(true.seed, true.split, true.index)


@some
@given(ids)
def test_certainty_of_entities_follows_the_truth(name):
    heads = {"effusion": "effusion", "pneumothorax": "pneumothorax", "edema": "edema", "atelectasis": "atelectasis"}
    true = truth(name)
    entities = [e for e in report(name).findings.entities if e.label.startswith("OBS")]
    for kind, word in heads.items():
        labels = {e.label for e in entities if re.fullmatch(f"{word}s?|fluid", e.tokens.lower()) and matches(e, word)}
        here = [f for f in true.findings if f.kind == kind]
        if any(not f.hedged for f in here):
            assert "OBS-DP" in labels
        if any(f.hedged for f in here):
            assert "OBS-U" in labels
        if not here:
            assert labels <= {"OBS-DA"}


def matches(entity, word):
    return entity.tokens.lower().startswith(word) or word == "effusion"


def test_a_pneumonia_is_suggested_by_its_consolidation():
    seen = 0
    for index in range(200):
        found = annotate(study_id(2, "train", index))["entities"]
        for entity in found.values():
            for kind, target in entity["relations"]:
                if kind == "suggestive_of":
                    assert entity["tokens"].lower() in ("consolidation", "opacity")
                    assert (found[target]["tokens"], found[target]["label"]) == ("pneumonia", "OBS-U")
                    seen += 1
    assert seen > 10


def test_abnormal_reports_are_distinct_and_no_constant_report_fits():
    test = list(studies("test", 300))
    abnormal = [s.sections["findings"] for s in test if s.columns["abnormal"] == "yes"]
    assert 0.7 < len(abnormal) / len(test) < 0.95
    assert len(set(abnormal)) >= 0.9 * len(abnormal)
    normal = "The heart is normal in size. The lungs are clear. No pleural effusion or pneumothorax."
    references = [s.sections["findings"] for s in test]
    pairs = Pairs([s.study_id for s in test], [normal] * len(test), references)
    metric = Bleu("raw")
    context = metric.fit(Corpus(references))
    features = features_of(metric, pairs, context)
    rows = metric.statistics(pairs, features, context).rows[:, 0]
    assert metric.value(rows.sum(axis=0))["bleu_4"] < 0.15
    assert not positive({k: v for k, v in read_report(normal).labels.items() if k != "No Finding"})


def features_of(metric, pairs, context):
    from cxrbench import registry

    return {r: registry.load("features", r.name)().extract(pairs, dict(r.settings)) for r in metric.needs(context)}


def test_everything_the_tables_hold_is_said():
    said = " ".join(
        f"{s.sections['findings']} {s.sections['impression']}".lower() for s in studies("train", 1800, seed=4)
    )
    for scale in phrases.SEVERITY.values():
        for words in scale:
            assert all(re.search(rf"\b{word}\b", said) for word in words)
    for table in (phrases.CHANGED, phrases.OWN_SENTENCES):
        for frames in table.values():
            for each in frames:
                plain = re.sub(r"/\S+|\{\w+\}|_", " ", each)
                longest = max(re.split(r"\s{2,}", plain.strip(" .")), key=len).strip(" .,").lower()
                assert longest in said, each


def test_sections_around_the_report():
    many = list(studies("validate", 400, seed=2))
    assert all(s.sections["indication"] and s.sections["technique"] for s in many)
    share = {name: sum(name in s.sections for s in many) / len(many) for name in ("history", "comparison")}
    assert 0.25 < share["history"] < 0.55
    assert 0.8 < share["comparison"] < 1
    for each in many:
        views = {image.view for image in each.images}
        text = each.sections["technique"].lower()
        assert ("ap" in text.replace(",", " ").split()) == ("AP" in views)
        assert ("lateral" in text or "two views" in text) == ("LATERAL" in views)
        if each.priors:
            assert re.search(r"\d{4}\.$", each.sections["comparison"])


# The markup itself ---


def test_markup_by_hand():
    markup = fill("{s}/s:O>e left/d:A>p pleural/p:A effusion/e:O@p , maybe pneumonia/n:U<e .", {"s": "small"})
    passage = read([(markup, "P"), ("1 . no edema/e:O .", "N")])
    assert passage.text == "Small left pleural effusion, maybe pneumonia. 1. No edema."
    assert passage.radgraph()["entities"] == {
        "1": {"tokens": "Small", "label": "OBS-DP", "start_ix": 0, "end_ix": 0, "relations": [["modify", "4"]]},
        "2": {"tokens": "left", "label": "ANAT-DP", "start_ix": 1, "end_ix": 1, "relations": [["modify", "3"]]},
        "3": {"tokens": "pleural", "label": "ANAT-DP", "start_ix": 2, "end_ix": 2, "relations": []},
        "4": {
            "tokens": "effusion",
            "label": "OBS-DP",
            "start_ix": 3,
            "end_ix": 3,
            "relations": [["located_at", "3"], ["suggestive_of", "5"]],
        },
        "5": {"tokens": "pneumonia", "label": "OBS-U", "start_ix": 6, "end_ix": 6, "relations": []},
        "6": {"tokens": "edema", "label": "OBS-DA", "start_ix": 11, "end_ix": 11, "relations": []},
    }


def test_words_joined_by_underscore_are_one_entity():
    passage = read([("an ET_tube/e:O@c ends above the carina/c:A .", "P")])
    assert passage.text == "An ET tube ends above the carina."
    assert [(e.tokens, e.start, e.end, e.relations) for e in passage.entities] == [
        ("ET tube", 1, 2, (("located_at", 2),)),
        ("carina", 6, 6, ()),
    ]


def test_renamed_phrases_keep_their_relations_apart():
    first, second = "left/d:A>e edema/e:N", rename("right/d:A>e edema/e:N", "2")
    passage = read([(f"{first} and {second} .", "P")])
    assert [e.relations for e in passage.entities] == [(("modify", 2),), (), (("modify", 4),), ()]


def test_articles_and_verbs():
    assert article("extensive mass") == "an extensive mass"
    countable, mass, plural = Noun("x"), Noun("x", False), Noun("x", plural=True)
    pattern = "{anp} {is} seen ."
    assert [frame(pattern, n, "effusion") for n in (countable, mass, plural)] == [
        "an effusion is seen .",
        "effusion is seen .",
        "effusion are seen .",
    ]
    assert frame("there {is} a new {np} .", mass, "edema") == "there is new edema ."
    assert frame("there {is} a new {np} .", countable, "nodule") == "there is a new nodule ."


# The reader by hand ---


@pytest.mark.parametrize(
    ("text", "labels", "fine"),
    [
        ("Small left pleural effusion.", {"Pleural Effusion": 1}, {"effusion/left/small": 1}),
        ("No pleural effusion or pneumothorax.", {"Pleural Effusion": 0, "Pneumothorax": 0}, {}),
        ("Possible tiny right pneumothorax.", {"Pneumothorax": -1}, {"pneumothorax/right/small": -1}),
        ("A trace effusion on the left cannot be excluded.", {"Pleural Effusion": -1}, {"effusion/left/small": -1}),
        ("A small nodule in the lingula is not excluded.", {"Lung Lesion": -1}, {"nodule/left/small": -1}),
        ("The previously seen left effusion has resolved.", {"Pleural Effusion": 0}, {}),
        ("The ET tube has been removed.", {"Support Devices": 0}, {}),
        ("No significant change in the mild edema.", {"Edema": 1}, {"edema/mild": 1}),
        ("Mild edema is seen without interval change.", {"Edema": 1}, {"edema/mild": 1}),
        ("The heart is not enlarged.", {"Cardiomegaly": 0}, {}),
        ("The heart is markedly enlarged.", {"Cardiomegaly": 1}, {"cardiomegaly/severe": 1}),
        (
            "Moderate cardiomegaly without edema.",
            {"Cardiomegaly": 1, "Edema": 0},
            {"cardiomegaly/moderate": 1},
        ),
        (
            "Large right upper lobe consolidation, suspicious for pneumonia.",
            {"Consolidation": 1, "Lung Opacity": 1, "Pneumonia": -1},
            {"consolidation/right/large": 1},
        ),
        (
            "Bilateral pleural effusions, small on the left and large on the right.",
            {"Pleural Effusion": 1},
            {"effusion/left/small": 1, "effusion/right/large": 1},
        ),
        (
            "Moderate right effusion with mild adjacent atelectasis.",
            {"Pleural Effusion": 1, "Atelectasis": 1},
            {"effusion/right/moderate": 1, "atelectasis/right/mild": 1},
        ),
        ("No right effusion. Small left effusion.", {"Pleural Effusion": 1}, {"effusion/left/small": 1}),
        ("Left sided pacemaker.", {"Support Devices": 1}, {"pacemaker/left": 1}),
        ("1. Stable right rib fracture.", {"Fracture": 1}, {"fracture/right": 1}),
    ],
)
def test_reading_by_hand(text, labels, fine):
    reading = read_report(text)
    assert {k: v for k, v in reading.labels.items() if k != "No Finding"} == labels
    assert reading.fine == fine
    assert reading.unread == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The lungs are clear.", 1),
        ("No acute cardiopulmonary process. Left chest wall pacemaker.", 1),
        ("Mild edema.", 0),
        ("Possible mild edema.", 0),
        ("", None),
        ("El corazon es normal.", None),
    ],
)
def test_no_finding(text, value):
    assert read_report(text).labels.get("No Finding") == value


def test_what_is_not_phantom_prose_is_said_to_be_unread():
    reading = read_report("Kerley lines. Sternotomy wires are noted. Small left effusion.")
    assert reading.unread == ("kerley lines", "sternotomy wires are noted")


@some
@given(st.text(max_size=200))
def test_any_text_can_be_read(text):
    reading = read_report(text)
    assert set(reading.labels) <= {name for names in LABELS_OF.values() for name in names} | {"No Finding"}


def test_the_documented_counts_are_those_of_the_tables():
    page = (Path(__file__).resolve().parents[2] / "docs" / "phantom.md").read_text(encoding="utf-8")
    rows = {cells[0]: [int(c) for c in cells[1:]] for cells in table_of(page, "| kind | noun phrases")}
    assert rows == {
        kind: [
            len(nouns),
            sum(len(words) for words in phrases.SEVERITY.get(kind, ())),
            len(phrases.OWN_SENTENCES.get(kind, ())),
            len(phrases.BOTH_ALIKE.get(kind, ())) + len(phrases.BOTH_UNLIKE.get(kind, ())),
            len(phrases.ABSENT.get(kind, ())),
        ]
        for kind, nouns in phrases.NOUNS.items()
    }
    found = Counter(f.kind for i in range(300) for f in case(0, "test", i).findings)
    counts = [int(cells[-1]) for cells in table_of(page, "| finding | sides")]
    assert sorted(counts) == sorted(found.values())


def table_of(page, head):
    lines = page[page.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
