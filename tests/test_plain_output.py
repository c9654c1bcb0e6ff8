"""What other packages draw on a stream that is no terminal: a progress bar is its last line."""

import io
import sys

import pytest

from cxrbench.cli.plain_output import plain_output


class Terminal(io.StringIO):
    def isatty(self):
        return True


def written(monkeypatch, parts, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with plain_output():
        for part in parts:
            sys.stderr.write(part)
            sys.stderr.flush()
    return stream.getvalue()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["\r 0%|  |", "\r100%|##|", "\n", "done\n"], "100%|##|\ndone\n"),
        (["\r 0%|  |", "\r100%|##|", "done\n"], "100%|##|\ndone\n"),
        (["\r 50%|# |"], " 50%|# |\n"),
        (["\r100%|##|", "\r        \r", "done\n"], "done\n"),
        (["one\r\ntwo\r\n"], "one\ntwo\n"),
        (["a name\rwith a return\n"], "a name\\u000dwith a return\n"),
        (["\rlines\nof a text\n", "next\n"], "lines\nof a text\nnext\n"),
    ],
)
def test_of_a_bar_the_last_line_is_left(monkeypatch, parts, said):
    assert written(monkeypatch, parts, io.StringIO()) == said


def test_on_a_terminal_a_bar_moves(monkeypatch):
    assert written(monkeypatch, ["\r 0%", "\r100%", "\n"], Terminal()) == "\r 0%\r100%\n"


def test_tqdm_itself(monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with plain_output():
        for _ in tqdm.tqdm(range(3), desc="reading", mininterval=0):
            pass
    assert stream.getvalue().count("reading") == 1
    assert "3/3" in stream.getvalue()
    assert "u000d" not in stream.getvalue()
