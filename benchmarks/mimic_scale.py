"""MIMIC-CXR at scale: time of prepare and studies on an invented tree, and agreement with the official section parser.

    python benchmarks/mimic_scale.py                      # 20,000 studies: prepare, index, direct reading, memory
    python benchmarks/mimic_scale.py --studies 227835     # the real number of studies
    python benchmarks/mimic_scale.py --official DIR       # DIR holds txt/section_parser.py of MIT-LCP/mimic-cxr

With --official every rule is compared with the original on invented reports: sections, names and starts, impression and
findings including the 54 studies treated by hand; both are timed in the same run. Text and ids are invented.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.util
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from cxrbench.data.base import Roots, Slice
from cxrbench.data.chexpert import LABELS
from cxrbench.data.mimic_cxr import MimicCxr
from cxrbench.data.mimic_section_rules import FINDINGS_PARTS, FORCED_RANGES, FORCED_SECTIONS, SECTION_NAMES
from cxrbench.data.sections import split_report, study_sections
from cxrbench.errors import CxrbenchError

FULL = 227_835
_TEXT = "the heart lungs are clear large no effusion small left right base tube ends above carina stable"
_WORDS = _TEXT.split()
_HEADERS = [name.upper() for name in (*SECTION_NAMES, *FINDINGS_PARTS, "note", "final addendum", "chest film ap")]
_GAPS = ["\n", "\n ", "\n \n", "\n \n ", " \n", ": ", "\t", "\n\n", "\n  ", ":", "\n _\n"]


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(1, 14))).capitalize() + "."


def plain_report(rng: random.Random) -> str:
    """A report in the usual layout."""
    parts = ["                                 FINAL REPORT", " EXAMINATION:  CHEST (PA AND LAT)"]
    parts.append(f" INDICATION:  {sentence(rng)}")
    parts.append(" COMPARISON:  None.")
    for name, share in (("FINDINGS", 0.7), ("IMPRESSION", 0.85)):
        if rng.random() < share:
            text = "\n ".join(sentence(rng) for _ in range(rng.randint(1, 6)))
            parts.append(f" {name}: \n \n {text}")
    return "\n \n".join(parts) + "\n"


def wild_report(rng: random.Random) -> str:
    """Headers, gaps and words in any order: what a rule may meet at its edges."""
    pieces = []
    for _ in range(rng.randint(0, 30)):
        kind = rng.random()
        if kind < 0.35:
            pieces.append(f"\n {rng.choice(_HEADERS)}:{rng.choice([' ', chr(10), '', '  '])}")
        elif kind < 0.6:
            pieces.append(rng.choice(_GAPS))
        else:
            pieces.append(sentence(rng))
    return "".join(pieces)


def report(rng: random.Random) -> str:
    return plain_report(rng) if rng.random() < 0.3 else wild_report(rng)


def load_official(folder: Path) -> ModuleType:
    for path in (folder / "txt" / "section_parser.py", folder / "section_parser.py"):
        if path.is_file():
            spec = importlib.util.spec_from_file_location("section_parser", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise SystemExit(f"no section_parser.py under {folder}")


def official_sections(original: ModuleType, names: dict, ranges: dict, study: str, text: str) -> dict | None:
    """The original's impression and findings of a study, or the text it places by hand; None where it would stop."""
    sections, found, _ = original.section_text(text)
    last = {name: section.strip() for name, section in zip(found, sections, strict=True)}
    if study in ranges:
        start, end = ranges[study]
        kept = {"findings": text[start:end].strip()}
    elif study in names:
        if names[study] not in last:
            return None
        kept = {"findings": last[names[study]]}
    else:
        kept = {name: last.get(name, "") for name in ("impression", "findings")}
    return {name: value for name, value in kept.items() if value}


def ours_or_none(study: str, text: str) -> dict | None:
    try:
        found = study_sections(study, text)
    except CxrbenchError:  # the original stops here too, with a ValueError
        return None
    return {name: found[name] for name in ("impression", "findings") if name in found}


def compare(folder: Path, count: int) -> None:
    original = load_official(folder)
    names, ranges = ({key[1:]: value for key, value in table.items()} for table in original.custom_mimic_cxr_rules())
    assert names == dict(FORCED_SECTIONS)
    assert {key: tuple(value) for key, value in ranges.items()} == dict(FORCED_RANGES)
    rng = random.Random(20200713)
    texts = [report(rng) for _ in range(count)]
    # First alone for the times, then side by side for the results.
    theirs_s = timed(lambda: [original.section_text(text) for text in texts])
    ours_s = timed(lambda: [split_report(text) for text in texts])
    equal = sum(
        [(part.text, part.name, part.start) for part in split_report(text)]
        == list(zip(*original.section_text(text), strict=True))
        for text in texts
    )
    by_hand = [*names, *ranges]
    cases = [
        (by_hand[number % len(by_hand)] if number % 4 == 0 else "59999001", text) for number, text in enumerate(texts)
    ]
    same = sum(official_sections(original, names, ranges, *case) == ours_or_none(*case) for case in cases)
    print(f"sections, names and starts equal: {equal:,} of {count:,} invented reports")
    print(f"impression and findings equal: {same:,} of {count:,}, a quarter of them under the ids treated by hand")
    print(f"original {theirs_s / count * 1e6:6.1f} us per report, ours {ours_s / count * 1e6:6.1f} us")


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rows(studies: int, rng: random.Random) -> Iterator[tuple[int, int, str, int]]:
    """(patient, study, split, images) for invented studies, in the proportions of the real ones."""
    patient, left = 10_000_000, 0
    for number in range(studies):
        if left == 0:
            patient += rng.randint(1, 130)
            left = rng.choices((1, 2, 3, 5, 12), (40, 20, 15, 15, 10))[0]
            split = rng.choices(("train", "validate", "test"), (222_758, 1_808, 3_269))[0]
        left -= 1
        yield patient, 50_000_000 + number * 37, split, rng.choices((1, 2, 3, 4), (45, 44, 9, 2))[0]


def build(root: Path, studies: int) -> Roots:
    """The tree: reports, one empty file per image (nothing is decoded here), tables."""
    rng = random.Random(7)
    tables = root / "tables"
    tables.mkdir(parents=True)
    split_rows, meta_rows, label_rows = [], [], []
    for patient, study, split, images in rows(studies, rng):
        folder = f"files/p{patient // 1_000_000}/p{patient}"
        path = root / "reports" / folder / f"s{study}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(plain_report(rng), encoding="ascii")
        pictures = root / "images" / folder / f"s{study}"
        pictures.mkdir(parents=True)
        day = f"21{rng.randint(10, 99)}0{rng.randint(1, 9)}{rng.randint(10, 28)}"
        for number in range(images):
            image = f"{study:08x}-{number:08x}-aaaaaaaa-bbbbbbbb-cccccccc"
            (pictures / f"{image}.jpg").touch()
            split_rows.append((image, study, patient, split))
            view = ("PA", "LATERAL", "AP", "LL")[number]
            meta_rows.append((image, patient, study, "CHEST", view, 8, 8, day, "101010.5", "", "postero-anterior", ""))
        label_rows.append((patient, study, *(rng.choice(("", "", "1.0", "0.0", "-1.0")) for _ in LABELS)))
    write(tables / "mimic-cxr-2.0.0-split.csv.gz", ["dicom_id", "study_id", "subject_id", "split"], split_rows)
    columns = (
        "dicom_id subject_id study_id PerformedProcedureStepDescription ViewPosition Rows Columns StudyDate StudyTime "
        "ProcedureCodeSequence_CodeMeaning ViewCodeSequence_CodeMeaning PatientOrientationCodeSequence_CodeMeaning"
    )
    write(tables / "mimic-cxr-2.0.0-metadata.csv.gz", columns.split(), meta_rows)
    write(tables / "mimic-cxr-2.0.0-chexpert.csv.gz", ["subject_id", "study_id", *sorted(LABELS)], label_rows)
    return {"reports": (root / "reports",), "images": (root / "images",), "tables": (tables,)}


def write(path: Path, columns: list[str], body: list[tuple]) -> None:
    with gzip.open(path, "wt", encoding="ascii", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(body)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def scale(root: Path, studies: int) -> None:
    import pandas  # noqa: F401  (paid once by every command; not part of the times below)
    import pyarrow.parquet  # noqa: F401

    built = time.perf_counter()
    roots = build(root, studies)
    print(f"invented tree of {studies:,} studies written in {time.perf_counter() - built:.1f} s")
    data, out = MimicCxr(), root / "index"
    steps: list[tuple[str, Callable[[], object]]] = [
        ("check", lambda: data.check(roots)),
        ("fingerprint of test", lambda: data.fingerprint(roots, Slice("test"))),
        ("studies test, direct", lambda: count(data.studies(roots, Slice("test")))),
        ("studies train, direct", lambda: count(data.studies(roots, Slice("train")))),
        ("prepare", lambda: data.prepare(roots, out, lambda done, total: None)),
        ("studies test, from the index", lambda: count(data.studies(roots, Slice("test"), out))),
        ("studies train, from the index", lambda: count(data.studies(roots, Slice("train"), out))),
    ]
    factor = FULL / studies
    print(f"{'step':32} {'seconds':>9} {'at 227,835':>11} {'peak MiB':>9}")
    for name, work in steps:
        seconds = timed(work)
        print(f"{name:32} {seconds:9.2f} {seconds * factor:11.1f} {peak_mib():9.0f}")
    size = sum(path.stat().st_size for path in out.iterdir()) / 2**20
    print(f"index: {size:.1f} MiB, at 227,835 studies {size * factor:.0f} MiB")


def count(studies: Iterator[object]) -> int:
    return sum(1 for _ in studies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20_000)
    parser.add_argument("--official", type=Path, help="a copy of MIT-LCP/mimic-cxr; compares instead of timing trees")
    parser.add_argument("--reports", type=int, default=20_000, help="how many invented reports to compare")
    chosen = parser.parse_args()
    if chosen.official is not None:
        compare(chosen.official, chosen.reports)
        return
    with tempfile.TemporaryDirectory(prefix="mimic-scale-") as folder:
        scale(Path(folder), chosen.studies)


if __name__ == "__main__":
    main()
