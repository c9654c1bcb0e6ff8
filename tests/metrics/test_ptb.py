"""The PTB tokenizer: equal to pycocoevalcap's wrapper, and every text gets its own tokens. Invented text."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from scored_texts import PAIRS, own_package

from cxrbench.errors import CxrbenchError
from cxrbench.metrics import java, ptb

NEEDS = ptb.ready()

FRAGMENTS = """
U.S. Dr. e.g. <b </p> <!-- a.m. 3 cm. 1/2 don't it's " “x” – … ( [ { http://a.b/c a@b.c $5 &amp; &lt; 😀 é ||| - --
heart Lungs 5-10 3.5 1,000 can not gonna 'tis & % AT&T T9-level _ ~ \\ / ß İ 中文 ^ * 1st XXXX. xxxx-xxxx :) 's ''
` ... .... -lrb- ; : ! ? @ # + = > } ]
""".split()  # noqa: SIM905
ODD = [
    "\t",
    "\u00a0",
    "\x00",
    "\x01",
    "\x1f",
    "\x85",
    "\u200b",
    "\ufeff",
    "\u00ad",
    "",
    "  ",
    "\U0001f468\u200d\U0001f469",
]

THEIRS = """
import json, sys
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
texts = json.load(sys.stdin)
found = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(texts)})
print(json.dumps([found[i][0] for i in range(len(texts))]))
"""


def theirs(texts: list[str]) -> list[str]:
    """Tokens by the wrapper in pycocoevalcap."""
    done = subprocess.run(
        [sys.executable, "-c", THEIRS], input=json.dumps(texts), capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(done.stdout)


def made_up(count: int) -> list[str]:
    draw = random.Random(7)
    return [" ".join(draw.choices(FRAGMENTS + ODD, k=draw.randint(0, 12))) for _ in range(count)]


@pytest.mark.java
@pytest.mark.skipif(NEEDS is not None, reason=f"the PTB tokenizer {NEEDS}")
class TestWithJava:
    def test_equal_to_pycocoevalcap_and_nothing_written_beside_it(self, monkeypatch, tmp_path):
        package = own_package(java.package_folder(), tmp_path / "package")
        before = sorted(package.rglob("*"))
        texts = [text.replace("\n", " ") for pair in PAIRS for text in pair] + made_up(800)
        with monkeypatch.context() as patch:
            patch.setattr(java, "package_folder", lambda: package)
            found = ptb.tokenize(texts)
        assert sorted(package.rglob("*")) == before
        assert found == theirs(texts)

    @pytest.mark.real_data
    def test_equal_on_real_reports(self, real_data):
        splits = json.loads((real_data / "iu_xray" / "r2gen" / "annotation.json").read_text(encoding="utf-8"))
        texts = [study["report"] for study in splits["test"]]
        assert len(texts) == 590
        assert ptb.tokenize(texts) == theirs(texts)

    def test_lower_case_and_dropped_punctuation(self):
        text = 'The heart (4.8 cm) is "large"; lungs: clear -- no effusion/edema. It\'s 5-10%...'
        assert ptb.tokenize([text]) == [
            "the heart -lrb- 4.8 cm -rrb- is large lungs clear no effusion/edema it 's 5-10 %"
        ]

    @pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\v", "\f", "\u2028", "\u2029"])
    def test_a_line_end_in_a_text_is_a_space(self, end):
        assert ptb.tokenize([f"heart{end}large", "lungs", "", "clear"]) == ["heart large", "lungs", "", "clear"]

    def test_tokens_do_not_depend_on_the_text_beside(self):
        texts = ["Hepatitis C.", "The heart is large.", "Seen in the U.S.", *made_up(60)]
        alone = dict(zip(texts, ptb.tokenize(texts), strict=True))
        assert alone["Hepatitis C."] == "hepatitis c."
        assert ptb.tokenize(texts[::-1]) == [alone[text] for text in texts[::-1]]

    def test_long_lists_go_in_chunks(self, monkeypatch):
        texts = made_up(25)
        whole = ptb.tokenize(texts)
        monkeypatch.setattr(ptb, "CHUNK", 10)
        assert ptb.tokenize(texts) == whole

    def test_edges(self):
        assert ptb.tokenize([]) == []
        assert ptb.tokenize(["", " ", "\n"]) == ["", "", ""]
        assert ptb.tokenize(["half \ud83d"]) == ["half"]
        assert ptb.tokenize(["the heart is normal " * 1250]) == [("the heart is normal " * 1250).strip()]

    def test_a_java_that_fails_is_an_error(self, monkeypatch, tmp_path):
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))
        (tmp_path / "bin").mkdir()
        broken = tmp_path / "bin" / "java"
        broken.write_text('#!/bin/sh\n[ "$1" = -version ] && echo \'openjdk version "17"\' >&2 && exit 0\nexit 7\n')
        broken.chmod(0o755)
        with pytest.raises(CxrbenchError, match="the PTB tokenizer failed: Java ended with exit code 7"):
            ptb.tokenize(["heart"])


def test_without_java_one_sentence_says_what_is_needed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert str(ptb.ready()).startswith("needs Java 8 or newer")
    with pytest.raises(CxrbenchError, match="needs Java 8 or newer"):
        ptb.tokenize(["heart"])
