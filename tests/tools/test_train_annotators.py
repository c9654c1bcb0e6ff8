"""The training script of the embedded annotators runs, its texts stay exact, and what it writes loads."""

import json
import random
import sys
from itertools import islice

import pytest
import torch

from cxrbench.data.phantom import report, study_id
from cxrbench.features import chexbert_net, radgraph_net
from cxrbench.features.bert import read_tokenizer
from cxrbench.features.radgraph_text import words
from cxrbench.shipped import embedded
from tools import train_annotators
from tools.annotator_training import card, encoder, labeler, texts, vocabulary


def check(passage):
    """Entities lie where they say, in order, and relations point to entities."""
    for entity in passage.entities:
        assert " ".join(passage.words[entity.start : entity.end + 1]) == entity.tokens
        assert all(1 <= target <= len(passage.entities) for _, target in entity.relations)
    assert [e.start for e in passage.entities] == sorted(e.start for e in passage.entities)


def test_variants_keep_their_annotations_exact():
    for passage in islice(texts.passages(1, 2), 600):
        check(passage)
        assert passage.words
        assert tuple(words(passage.text, "radgraph")) == passage.words, "the annotator will see these words"


def test_sentences_make_the_passage_again():
    for index in range(40):
        passage = report(study_id(1, "train", index)).impression
        assert texts.join(texts.sentences(passage)) == passage


def test_a_moved_sentence_keeps_its_relations():
    passage = report(study_id(1, "train", 3)).findings
    parts = texts.sentences(passage)
    turned = texts.join(parts[::-1])

    def edges(p):
        return sorted((e.tokens, kind, p.entities[t - 1].tokens) for e in p.entities for kind, t in e.relations)

    assert edges(turned) == edges(passage)
    assert sorted(turned.words) == sorted(passage.words)


@pytest.mark.parametrize("text", ["A small effusion cannot be excluded .", "The edema has resolved ."])
def test_what_a_later_word_decides_is_never_cut(text):
    sentence = texts.Passage(tuple(text.split()))
    assert all(texts.cut(sentence, random.Random(seed)) == sentence for seed in range(20))


def test_a_rearranged_report_knows_where_its_pieces_came_from():
    tokenizer = read_tokenizer(embedded("encoder"))
    for seed in range(20):
        passage = report(study_id(1, "train", seed)).findings
        before, after, place = encoder.rearranged(passage, tokenizer, random.Random(seed))
        assert before == tokenizer(passage.text)["input_ids"]
        assert [before[i] for i in place] == after[1:-1]
        assert len(set(place)) == len(place)


def test_the_labeler_is_trained_on_the_ids_of_the_text():
    tokenizer = read_tokenizer(embedded("labeler"))
    pieces = labeler.Pieces(tokenizer)
    for index in range(20):
        passage = report(study_id(1, "train", index)).findings
        ids, tags = pieces(passage)
        assert ids == tokenizer(passage.text)["input_ids"]
        assert len(ids) == len(tags)
        assert sum(map(bool, tags)) >= len(passage.entities)


def test_training_never_meets_the_test_split():
    assert texts.SPLIT == "train"


@pytest.fixture
def micro(monkeypatch):
    """The script with some words, in this process; threads and random numbers are put back."""
    threads = torch.get_num_threads()

    def call(*words):
        monkeypatch.setattr(vocabulary, "STUDIES", 100)
        monkeypatch.setattr(sys, "argv", ["train_annotators", "--micro", *map(str, words)])
        train_annotators.main()

    with torch.random.fork_rng(devices=[]):
        yield call
    torch.set_num_threads(threads)


def test_a_micro_run_writes_folders_that_load(micro, tmp_path):
    micro("--out", tmp_path)
    made = chexbert_net.load(tmp_path / "labeler/chexbert.pth", tmp_path / "labeler")
    assert made.label(["Mild edema."]).classes.shape == (1, 14)
    assert radgraph_net.load(tmp_path / "annotator").annotate(["Mild edema."])[0]["text"] == "Mild edema ."
    assert (tmp_path / "encoder/model.safetensors").is_file()
    for name in ("labeler", "annotator", "encoder"):
        facts = json.loads((tmp_path / name / "training.json").read_text())
        assert facts["plan"]["steps"] == 3
        assert facts["script_sha256"] == card.script_hash(name)
        assert "no clinical use" in (tmp_path / name / "README.md").read_text()


def test_the_same_seeds_make_the_same_weights(micro, tmp_path):
    for folder in ("a", "b"):
        micro("--only", "labeler", "--out", tmp_path / folder)
    a, b = ((tmp_path / folder / "labeler/chexbert.pth").read_bytes() for folder in ("a", "b"))
    assert a == b


def test_a_micro_run_never_overwrites_the_shipped_weights(micro, capsys):
    with pytest.raises(SystemExit):
        micro()
    assert "--micro needs --out" in capsys.readouterr().err
