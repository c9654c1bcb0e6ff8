"""Text conventions: the R2Gen cleaners by hand, the tokenizers against the packages they follow."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest
from hypothesis import given
from scored_texts import any_text, few

from cxrbench.errors import CxrbenchError
from cxrbench.metrics import conventions, java, r2gen
from cxrbench.metrics.base import Corpus
from cxrbench.metrics.bleu import Bleu
from cxrbench.metrics.cider import Cider
from cxrbench.metrics.rouge import RougeL


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Lungs are clear. No effusion.", "lungs are clear . no effusion ."),
        ("Nodule of 4.8 cm.", "nodule of 48 cm ."),  # the point of a decimal is punctuation within a sentence
        ('No effusion/edema, "XXXX" and patient\'s T9_x.', "no effusionedema xxxx and patients t9x ."),
        ("Follow-up in 6-8 weeks [ref]: a <b> = c @ d!", "follow-up in 6-8 weeks ref a b  c  d ."),
        ("1. Normal. 2. Clear.", "normal . clear ."),  # a dropped list number
        ("In 2011. Stable.", "in 201stable ."),  # "1. " goes wherever it stands
        ("Clear.. Normal....", "clear . normal ."),
        ("No end", "no end ."),
        ("End .", "end  ."),  # stripped before the full stop goes
        ("a. . b", "a .  . b ."),  # an empty sentence stays
        ("", " ."),
        ("Stable\nheart", "stable\nheart ."),
    ],
)
def test_iu_cleaner(text, cleaned):
    assert r2gen.clean(text, "iu") == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("The heart\n size   is normal.\nNo ___ effusion.", "the heart size is normal . no  effusion ."),
        ("Seen on ___. Compared to _______.", "seen on  . compared to  ."),
        ("End of sentence.\nNext one.", "end of sentence . next one ."),
        ("Dots" + "." * 40 + " Next.", "dots . next ."),
    ],
)
def test_mimic_cleaner(text, cleaned):
    assert r2gen.clean(text, "mimic") == cleaned


def test_the_iu_cleaner_leaves_newlines_inside_sentences():
    # only the MIMIC rule turns a newline into a space before sentences are split
    assert r2gen.clean("End.\nNext one.", "iu") == "end\nnext one ."


@few
@pytest.mark.parametrize("name", ["r2gen", "r2gen-mimic"])
@given(any_text)
def test_processed_predictions_are_single_spaced_lower_case_and_end_in_a_full_stop(name, text):
    (processed,), _ = conventions.process(name, [text], [], frozenset())
    assert processed == " ".join(processed.split())
    assert processed.endswith(".")
    assert not set(processed.replace("<unk>", "")) & set("ABC,?!:;<>@[](){}\"'/\\_*%&+=^")


@few
@pytest.mark.parametrize("name", ["r2gen", "r2gen-mimic"])
@given(any_text)
def test_a_processed_prediction_stays_as_it_is(name, text):
    once, _ = conventions.process(name, [text], [], frozenset())
    assert conventions.process(name, once, [], frozenset())[0] == once


@pytest.mark.parametrize(
    ("prediction", "processed"),
    [
        ("the <unk> is clear . no <unk> .", "the <unk> is clear . no <unk> ."),
        ("The <UNK>, is clear. No <unk>.", "the <unk> is clear . no <unk> ."),
        ("<unk>", "<unk>"),  # a decoder writes that, a radiologist does not: no full stop is added
        ("a <b> = <unk>?", "a b <unk> ."),
        ("lungs are clear . there is no", "lungs are clear . there is no"),  # decoded and cut off by a length limit
        ("no acute disease", "no acute disease ."),  # nothing shows that this was decoded
        ("Lungs are clear . there is no", "lungs are clear . there is no ."),
    ],
)
def test_predictions_keep_unk_whole_and_what_was_decoded_as_it_is(prediction, processed):
    for name in ("r2gen", "r2gen-mimic"):
        assert conventions.process(name, [prediction], [], frozenset())[0] == [processed]


def test_references_are_cleaned_by_the_published_rule_alone():
    known = frozenset({"unk", "lungs", "."})  # the cleaner takes < and > from a report, as R2Gen's does
    assert conventions.process("r2gen", [], ["lungs <unk> . lungs"], known)[1] == ["lungs unk . lungs ."]


@pytest.mark.parametrize("name", ["r2gen", "r2gen-mimic"])
def test_what_a_model_of_this_protocol_writes_stays_as_it_is(name):
    written = "the heart is mildly enlarged . there is a 48 cm mass . no effusion ."
    assert conventions.process(name, [written], [], frozenset())[0] == [written]


def test_references_are_cut_and_rare_words_become_unk():
    train = ["Heart is large. Lungs clear.", "Heart is normal.", "Heart is small. Lungs small."]
    corpus = Corpus(["x"], train=lambda: train)
    data = conventions.fit("r2gen", corpus)
    assert data == {"vocabulary": [".", "heart", "is"]}
    predictions, references = conventions.process(
        "r2gen", ["Heart is huge. " * 30], ["Heart is huge. " * 30], conventions.words(data)
    )
    assert predictions == [("heart is huge . " * 30).strip()]  # predictions are cleaned, and only that
    assert references[0].split() == (["heart", "is", "<unk>", "."] * 15)[:59]
    mimic = conventions.process("r2gen-mimic", [], ["heart " * 200], frozenset({"heart"}))
    assert mimic == ([], [" ".join(["heart"] * 99)])


def test_the_mimic_vocabulary_needs_ten_occurrences():
    train = ["heart lungs", *["heart"] * 9, *["lungs"] * 8]
    assert conventions.fit("r2gen-mimic", Corpus([], train=lambda: train)) == {"vocabulary": [".", "heart"]}


def test_a_given_vocabulary_goes_before_the_train_split():
    corpus = Corpus([], train=lambda: ["a a a"], vocabulary=frozenset({"b"}))
    assert conventions.fit("r2gen", corpus) == {"vocabulary": ["b"]}


@pytest.mark.parametrize("metric", [Bleu, RougeL, Cider])
def test_without_words_the_error_says_what_to_add(metric):
    with pytest.raises(CxrbenchError) as caught:
        metric("r2gen").fit(Corpus(["a"]))
    assert "--vocabulary FILE" in caught.value.fix
    assert "--task" in caught.value.fix
    with pytest.raises(CxrbenchError):
        conventions.process("r2gen", ["a"], ["a"], None)


@pytest.mark.parametrize(
    ("preset", "dataset", "other"), [("r2gen", "mimic-cxr", "r2gen-mimic"), ("r2gen-mimic", "iu-xray", "r2gen")]
)
def test_the_protocol_of_another_data_set_is_refused(preset, dataset, other):
    with pytest.raises(CxrbenchError) as caught:
        Bleu(preset).fit(Corpus(["a"], vocabulary=frozenset({"a"}), dataset=dataset))
    assert other in caught.value.fix
    Bleu(other).fit(Corpus(["a"], vocabulary=frozenset({"a"}), dataset=dataset))


def test_raw_leaves_texts_alone():
    texts = ["No  Effusion.\nClear", ""]
    assert conventions.process("raw", texts, texts[::-1]) == (texts, texts[::-1])


def test_an_unknown_convention_lists_the_known():
    with pytest.raises(CxrbenchError) as caught:
        conventions.process("cocoa", [], [])
    assert "coco" in caught.value.fix


@few
@given(any_text)
def test_13a_is_sacrebleus(text):
    tokenizer = pytest.importorskip("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    assert conventions.mteval_13a(text).split() == tokenizer(text.rstrip()).split()


@pytest.mark.parametrize(
    "text", ["4.8-cm mass, T9/T10; a&amp;lt;b &quot;x&quot;", "end-\nof line.", "<skipped>1.5, .5 5. -3 3-5", "a.b,c"]
)
def test_13a_is_sacrebleus_in_its_corners(text):
    tokenizer = pytest.importorskip("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    assert conventions.mteval_13a(text).split() == tokenizer(text.rstrip()).split()


@few
@given(any_text)
def test_alphanumeric_words_are_those_of_rouge_score(text):
    tokenizers = pytest.importorskip("rouge_score.tokenizers")
    assert conventions.alphanumeric(text).split() == tokenizers.DefaultTokenizer(use_stemmer=False).tokenize(text)


def test_porter_stems_are_those_of_rouge_score():
    tokenizers = pytest.importorskip("rouge_score.tokenizers")
    text = "Mildly enlarged opacities, skies dying; effusions increasingly pleural and bibasilar atelectases flies"
    (stemmed,), _ = conventions.process("rouge-score-porter", [text], [])
    assert stemmed.split() == tokenizers.DefaultTokenizer(use_stemmer=True).tokenize(text)


def test_signatures_name_what_processes_the_texts(monkeypatch):
    def told(name):
        return dict(conventions.find(name).settings())

    assert told("raw") == {"tokens": "whitespace", "case": "kept"}
    assert told("r2gen") == {"tokens": "r2gen-iu.2", "case": "lower", "cut": "59"}
    assert told("coco") == {"tokens": "ptb", "case": "lower", "corenlp": java.identity(java.CORENLP_JAR)}
    monkeypatch.setattr("importlib.metadata.version", lambda package: {"nltk": "3.9.9"}[package])
    assert told("rouge-score-porter")["nltk"] == "3.9.9"

    def absent(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr("importlib.metadata.version", absent)
    assert told("rouge-score-porter")["nltk"] == "absent"
    monkeypatch.setattr(java, "package_folder", lambda: None)
    assert told("coco")["corenlp"] == "absent"


@pytest.mark.parametrize("name", ["r2gen", "r2gen-mimic"])
@pytest.mark.parametrize("train", [[], ["heart"], [""]])
def test_an_empty_vocabulary_is_refused(name, train):
    # with it every word of every reference would be <unk>; an empty report is a full stop, once
    with pytest.raises(CxrbenchError, match=f"{len(train)} training report") as caught:
        conventions.fit(name, Corpus(["a"], train=lambda: train))
    assert "--vocabulary FILE" in caught.value.fix
    with pytest.raises(CxrbenchError, match="vocabulary"):
        conventions.fit(name, Corpus(["a"], vocabulary=frozenset()))


def test_conventions_without_requirements_are_ready():
    for name in ("raw", "r2gen", "r2gen-mimic", "sacrebleu", "rouge-score"):
        assert conventions.ready(name) is None


def test_a_missing_stemmer_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install rouge-score" in (RougeL("radeval").ready() or "")
