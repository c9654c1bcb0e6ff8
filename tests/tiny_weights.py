"""Weights of every clinical metric in the published layouts, tiny: the real path of scoring reports that are not drawn.

What they say of a report means nothing. The labeler and the annotator are the embedded ones under the files people
have; the rest are random networks of the tests.
"""

import shutil
from pathlib import Path

from cxrbench.assets_lock import Record, Sum, sha256, write_record
from cxrbench.config import cache_dir
from cxrbench.shipped import embedded
from tools.tiny_encoders import make

RATE = Path(__file__).parent / "features" / "tiny_rate"
TOKENIZER = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
CLINICAL = ("chexbert-f1", "radgraph-f1", "semb-score", "bertscore", "radcliq", "ratescore")
"""The metrics whose weights `lay_out` brings."""


def lay_out(place=None):
    """Write the folders chexbert/, bert-base-uncased/, ... where fetched assets lie; returns the folder of them all."""
    place = place if place is not None else cache_dir() / "assets"
    labeler, annotator = embedded("labeler"), embedded("annotator")
    copy(labeler, place / "chexbert", ["chexbert.pth"])
    copy(labeler, place / "bert-base-uncased", TOKENIZER)
    copy(annotator, place / "radgraph", ["config.json", "weights.th"])
    shutil.copytree(annotator / "vocabulary", place / "radgraph/vocabulary")
    copy(annotator / "bert", place / "pubmedbert", TOKENIZER)
    make("roberta", place / "distilroberta-base", layers=6)
    shutil.copytree(RATE / "ner", place / "rate-ner")
    shutil.copytree(RATE / "biolord", place / "biolord")
    return place


def copy(source, target, names):
    target.mkdir(parents=True)
    for name in names:
        shutil.copy(source / name, target / name)


def record(folder, asset):
    """Write the lock record that a fetch of these files would have left."""
    files = {
        path.relative_to(folder).as_posix(): Sum(path.stat().st_size, sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_record(folder, Record(asset, "some/where", "main", "0" * 40, "", "2026-01-01", "none", "none", files, files))
