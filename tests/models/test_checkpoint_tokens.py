"""Tokenizers of published folders: which class, BOS, SentencePiece files, and the stand-in for speed."""

from __future__ import annotations

import json

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.models import tokens
from cxrbench.models.tokens import StandIn, around_images, cleaned, read_tokenizer
from tests import released
from tests.tiny_llava import TEXTS, edit_json


def refusal(folder, **options) -> str:
    with pytest.raises(CxrbenchError) as error:
        read_tokenizer(folder, **options)
    return str(error.value)


class Numbers:
    """A tokenizer of one token per letter; `bos` leads every text."""

    bos_token_id = 1

    def __init__(self, leads: bool) -> None:
        self.leads = leads

    def __call__(self, text):
        return {"input_ids": [*([1] if self.leads else []), *(100 + ord(letter) for letter in text)]}


@pytest.mark.parametrize(
    ("leads", "prompt", "expected"),
    [
        (True, "a<image>b", [1, 197, 7, 7, 198]),
        (False, "a<image>b", [197, 7, 7, 198]),
        (True, "<image>b", [1, 7, 7, 198]),
        (True, "a<image>b<image>", [1, 197, 7, 7, 198, 7, 7]),
        (True, "ab", [1, 197, 198]),
    ],
)
def test_images_lie_between_pieces_and_one_bos_leads(leads, prompt, expected):
    assert around_images(Numbers(leads), prompt, 7, 2) == expected


def test_cleaning_is_that_of_transformers_4():
    assert cleaned("it 's n't so , is n't it ? no . I 've !") == "it'sn't so, isn't it? no. I've!"


def test_bos_is_held_against_what_the_model_was_trained_with(tmp_path):
    llama, phi = released.llama_tokenizer(tmp_path / "llama"), released.phi_tokenizer(tmp_path / "phi")
    assert read_tokenizer(llama, bos=True)("x")["input_ids"][0] == 1
    assert "begins a text with BOS" in refusal(llama, bos=False)
    assert read_tokenizer(phi, bos=False)("x")["input_ids"]
    assert "does not begin a text with BOS" in refusal(phi, bos=True)


def test_the_configuration_of_the_model_is_not_asked(tmp_path):
    folder = released.phi_tokenizer(tmp_path)
    (folder / "config.json").write_text('{"model_type": "llava_phi", "auto_map": {"AutoConfig": "own.Config"}}')
    (folder / "own.py").write_text("raise SystemExit('ran')")
    assert read_tokenizer(folder, bos=False)("The heart")["input_ids"]


def test_a_folder_without_tokenizer_files(tmp_path):
    assert "there is no tokenizer" in refusal(tmp_path, bos=True)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "OwnTokenizer"}')
    assert "'OwnTokenizer' is not one that is read here" in refusal(tmp_path, bos=True)
    (tmp_path / "tokenizer.json").write_text("{")
    assert "cannot load the tokenizer" in refusal(tmp_path, bos=True)


def test_a_sentencepiece_file_without_its_packages(tmp_path, monkeypatch):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizerFast"}')
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    monkeypatch.setattr(tokens, "find_spec", lambda name: None)
    message = refusal(tmp_path, bos=True)
    assert "sentencepiece and google.protobuf is not here" in message
    assert "pip install sentencepiece protobuf" in message


@pytest.mark.parametrize("said", [{}, {"add_bos_token": True}])
def test_a_sentencepiece_file_gives_the_ids_of_sentencepiece(tmp_path, said):
    import io

    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS, *released.MORE] * 20),
        model_writer=model,
        vocab_size=500,
        model_type="bpe",
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **names, **said}))
    made = read_tokenizer(tmp_path, bos=True)
    plain = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    for text in ("\nProvide a description. ASSISTANT:", "A chat USER: ", "[INST] ", "\n1234 é ☢ [/INST]", "###\n###"):
        assert made(text)["input_ids"] == [1, *plain.encode(text)]
    edit_json(tmp_path / "tokenizer_config.json", add_bos_token=False)
    assert "does not begin" in refusal(tmp_path, bos=True)


def test_the_stand_in_gives_plausible_lengths_and_no_special_ids():
    made = StandIn(vocabulary=100, bos_token_id=None, eos_token_id=2, reserved=frozenset({0, 2, 50}))
    ids = made("Write a findings report of this image:\nno effusion")["input_ids"]
    assert 9 <= len(ids) <= 16
    assert not {0, 2, 50} & set(ids)
    assert all(0 <= each < 100 for each in ids)
    assert ids == made("Write a findings report of this image:\nno effusion")["input_ids"]
    assert made.decode([5, 2, 7]) == "t5 t7"
