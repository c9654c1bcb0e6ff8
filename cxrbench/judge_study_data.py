"""Ratings of people, in the forms they are published in: RadPref, ReXVal, RadEvalX, and any table of one's own.

case, candidate report, reference report, and numbers by name: `errors:NAME` (fewer are better), `rating:NAME` (more
are better); each the mean over raters. Where a file has another layout than its release, the error names the columns or
keys that are needed.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from cxrbench.errors import CxrbenchError

REXVAL_REPORTS = "50_samples_gt_and_candidates.csv"
REXVAL_ERRORS = "6_valid_raters_per_rater_error_categories.csv"
REXVAL_KINDS = (
    "false_finding", "missing_finding", "wrong_location", "wrong_severity", "false_comparison", "missing_comparison"
)  # fmt: skip
REXVAL_NEEDS = (
    f"{REXVAL_REPORTS} with study_id, gt_report and a column per candidate type; {REXVAL_ERRORS} with study_number,"
    " candidate_type, error_category (1-6), clinically_significant, rater_index and num_errors"
)
RADPREF_REPORTS, RADPREF_RATERS = "preference_data.json", "radiologist_annotations"
RADPREF_NEEDS = (
    f"a folder with {RADPREF_REPORTS} and {RADPREF_RATERS}/*.json as in CRIMSON's repository, or one JSON file whose"
    " `items` have the raters' marks under `radiologists`"
)
RADEVALX_FILES: Mapping[str, str] = {
    "significant": "RadEval_clinically_significant_errors.csv",
    "insignificant": "RadEval-clinically_insignificant_errors.csv",
}
RADEVALX_COLUMNS = ("report_id", "ground_truth", "M2Tr-Generation", *"12345678")
RADEVALX_NEEDS = (
    f"the folder of release 1.0.0: {' and '.join(RADEVALX_FILES.values())}, each with the columns"
    f" {', '.join(RADEVALX_COLUMNS)}; else --format table"
)
PREFIXES = ("errors:", "rating:")


@dataclass(frozen=True, slots=True)
class Rated:
    """One candidate report of one case, with what people said of it. Cases are the clusters."""

    case: str
    name: str
    candidate: str
    reference: str
    human: Mapping[str, float]

    @property
    def sample_id(self) -> str:
        """`case/name`."""
        return f"{self.case}/{self.name}"


def better_is_higher(target: str) -> bool:
    """Whether a target grows with quality.

    >>> better_is_higher("rating:overall"), better_is_higher("errors:significant")
    (True, False)
    """
    return target.startswith("rating:")


def _damaged(file: Path, what: str) -> CxrbenchError:
    return CxrbenchError(what, where=str(file), fix="docs/judges.md shows the form")


def radpref(path: Path) -> list[Rated]:
    """RadPref of CRIMSON: two candidates per case, rated 1-5 and marked for errors by each radiologist.

    `path` is the folder as it is published, or one JSON file with both (see `RADPREF_NEEDS`). Targets:
    `rating:overall`; `errors:all` (false findings, attribute errors, missing findings), and of these `errors:false`,
    `errors:attribute`, `errors:missing`, `errors:significant` (urgent or actionable findings, and attribute errors
    called significant).
    """
    try:
        items = _radpref_folder(path) if path.is_dir() else json.loads(path.read_text(encoding="utf-8"))["items"]
        return [_radpref_candidate(item, name) for item in items for name in ("C1", "C2")]
    except OSError as error:
        raise CxrbenchError(
            f"the ratings cannot be read: {error.strerror}", where=str(error.filename or path), fix=RADPREF_NEEDS
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        said = f"this is not RadPref's form ({type(error).__name__}: {error})"
        raise CxrbenchError(said, where=str(path), fix=RADPREF_NEEDS) from error


def _radpref_folder(folder: Path) -> list[dict[str, Any]]:
    """The cases of the published folder, each with the marks of everyone who marked it."""
    items: list[dict[str, Any]] = json.loads((folder / RADPREF_REPORTS).read_text(encoding="utf-8"))
    files = sorted((folder / RADPREF_RATERS).glob("*.json"))
    if not files:
        raise ValueError(f"no file of a rater in {RADPREF_RATERS}")
    marks = {file.stem: json.loads(file.read_text(encoding="utf-8"))["annotations"] for file in files}
    for rater, given in marks.items():
        lacking = sum(item["id"] not in given for item in items)
        if lacking:
            raise ValueError(f"{rater} has no marks of {lacking} cases")
    return [{**item, "radiologists": {rater: given[item["id"]] for rater, given in marks.items()}} for item in items]


def _radpref_candidate(item: Mapping[str, Any], name: str) -> Rated:
    told = [_radpref_marks(rater[name]) for rater in item["radiologists"].values()]
    human = {target: fmean(each[target] for each in told) for target in told[0]}
    return Rated(item["id"], name, item[f"{name}_report"], item["ground_truth_report"], human)


_WEIGHTY = frozenset({"urgent", "actionable_not_urgent", "significant"})


def _radpref_marks(marks: Mapping[str, Any]) -> dict[str, float]:
    errors, missing = list(marks["finding_errors"].values()), list(marks["missing_findings"].values())
    attributes = [each for each in errors if each["error_type"] == "attribute"]
    false = [each for each in errors if each["error_type"] == "false"]
    weighty = sum(each.get("clinical_significance") in _WEIGHTY for each in [*false, *missing])
    weighty += sum(bool(_WEIGHTY & set(each.get("attributes", {}).values())) for each in attributes)
    return {
        "rating:overall": float(marks["rating"]),
        "errors:all": float(len(errors) + len(missing)),
        "errors:significant": float(weighty),
        "errors:false": float(len(false)),
        "errors:attribute": float(len(attributes)),
        "errors:missing": float(len(missing)),
    }


def _rows(file: Path, needs: str = "") -> list[dict[str, str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = [dict(row) for row in csv.DictReader(stream, strict=True)]
        if any(None in row or None in row.values() for row in rows):
            raise _damaged(file, "a row has more or fewer cells than the header")
        return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        said = error.strerror if isinstance(error, OSError) else "not UTF-8, or a quote that is not closed"
        raise CxrbenchError(f"the table cannot be read: {said}", where=str(file), fix=needs) from error


def rexval(folder: Path) -> list[Rated]:
    """ReXVal: the two tables of the PhysioNet release in a folder; six raters' error counts, summed per rater.

    `study_number` of the counts is an id of the reports' table, or a place in it (from 0, or from 1). Targets:
    `errors:all`, `errors:significant`, `errors:insignificant`, and one per kind.
    """
    reports, counts = (_rows(folder / name, REXVAL_NEEDS) for name in (REXVAL_REPORTS, REXVAL_ERRORS))
    try:
        place = _study_places([row["study_id"] for row in reports], [row["study_number"] for row in counts])
        sums: dict[tuple[int, str], dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for row in counts:
            at = (place[row["study_number"]], row["candidate_type"])
            _add_errors(sums[at][row["rater_index"]], row)
        return [
            Rated(str(i), name, reports[i][name], reports[i]["gt_report"], _means(list(raters.values())))
            for (i, name), raters in sorted(sums.items())
        ]
    except (KeyError, ValueError, IndexError) as error:
        raise CxrbenchError(
            f"these are not ReXVal's tables ({type(error).__name__}: {error})", where=str(folder), fix=REXVAL_NEEDS
        ) from error


def _study_places(ids: Sequence[str], numbers: Sequence[str]) -> dict[str, int]:
    if set(numbers) <= set(ids):
        return {name: i for i, name in enumerate(ids)}
    first = min(int(number) for number in numbers)
    if first not in (0, 1):
        raise ValueError("study numbers are neither ids nor places")
    return {number: int(number) - first for number in set(numbers)}


def _add_errors(found: dict[str, float], row: Mapping[str, str]) -> None:
    kind = REXVAL_KINDS[int(row["error_category"]) - 1]
    weighty = {"true": True, "1": True, "false": False, "0": False}[row["clinically_significant"].strip().lower()]
    count = float(row["num_errors"])
    side = "significant" if weighty else "insignificant"
    for name in ("all", side, kind):
        found[f"errors:{name}"] = found.get(f"errors:{name}", 0.0) + count


def _means(raters: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = ["errors:all", "errors:significant", "errors:insignificant", *(f"errors:{kind}" for kind in REXVAL_KINDS)]
    return {name: fmean(rater.get(name, 0.0) for rater in raters) for name in names}


def radevalx(folder: Path, blank: float | None = None) -> tuple[list[Rated], int]:
    """RadEvalX 1.0.0: counts of eight kinds two radiologists agreed on, one candidate per case; how many were empty.

    Most counts of the release are empty, and it does not say whether that means none: `blank` is what they are taken
    for. Kinds 1 to 6 are those of ReXVal. Targets: `errors:all`, `errors:significant`, `errors:insignificant`, and one
    per kind; 7 and 8 by number.

    Raises:
        CxrbenchError: a file or column is missing, the two files do not hold the same reports, or counts are empty
            and `blank` is None.
    """
    sides = {side: _radevalx_rows(folder / name) for side, name in RADEVALX_FILES.items()}
    one, two = sides.values()
    if {key: row["M2Tr-Generation"] for key, row in one.items()} != {
        key: row["M2Tr-Generation"] for key, row in two.items()
    }:
        raise _damaged(folder, "the two files of RadEvalX do not hold the same reports")
    empty = sum(not row[kind].strip() for rows in sides.values() for row in rows.values() for kind in "12345678")
    if empty and blank is None:
        raise CxrbenchError(
            f"{empty} of {len(one) * 16} counts of RadEvalX are empty, and its release does not say what that means",
            where=str(folder),
            fix="--blank 0 takes them for no error",
        )
    rated = []
    for number, (key, row) in enumerate(one.items(), start=1):
        counts = {
            (side, kind): _radevalx_count(rows[key][kind], blank, f"{folder}, the {side} errors of report {number}")
            for side, rows in sides.items()
            for kind in "12345678"
        }
        rated.append(Rated(key, "M2Tr", row["M2Tr-Generation"], row["ground_truth"], _radevalx_targets(counts)))
    return rated, empty


def _radevalx_rows(file: Path) -> dict[str, dict[str, str]]:
    rows = _rows(file, RADEVALX_NEEDS)
    lacking = [column for column in RADEVALX_COLUMNS if not rows or rows[0].get(column) is None]
    if lacking:
        raise CxrbenchError(
            f"there is no column {lacking[0]!r}" if rows else "the table has no rows",
            where=str(file),
            fix=RADEVALX_NEEDS,
        )
    found = {row["report_id"].strip(): row for row in rows}
    if len(found) < len(rows):
        raise _damaged(file, "a report stands in two rows")
    return found


def _radevalx_count(text: str, blank: float | None, where: str) -> float:
    if not text.strip() and blank is not None:
        return blank
    try:
        count = float(text)
    except ValueError:
        count = -1.0
    if count < 0 or count != int(count):
        raise CxrbenchError("a count is no whole number", where=where, fix="correct the file")
    return count


def _radevalx_targets(counts: Mapping[tuple[str, str], float]) -> dict[str, float]:
    sides = {f"errors:{side}": sum(n for (each, _), n in counts.items() if each == side) for side in RADEVALX_FILES}
    names = dict(zip("12345678", (*REXVAL_KINDS, "kind_7", "kind_8"), strict=True))
    kinds = {
        f"errors:{name}": sum(n for (_, each), n in counts.items() if each == kind) for kind, name in names.items()
    }
    return {"errors:all": sum(counts.values()), **sides, **kinds}


def table(file: Path) -> list[Rated]:
    """A CSV of one's own reader study: columns case, candidate, reference, and `errors:NAME` or `rating:NAME`.

    A row per candidate, or per candidate and rater: rows of equal case, candidate and reference are averaged. A column
    `name` tells candidates of a case apart; without it they are numbered. An empty number is refused, not taken for 0.
    """
    rows = _rows(file)
    if not rows:
        raise _damaged(file, "the table has no rows")
    targets = [column for column in rows[0] if column.startswith(PREFIXES)]
    lacking = [column for column in ("case", "candidate", "reference") if column not in rows[0]]
    if lacking or not targets:
        what = f"there is no column {lacking[0]!r}" if lacking else "no column begins with errors: or rating:"
        raise _damaged(file, what)
    told: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    names: dict[tuple[str, str, str], str] = {}
    for number, row in enumerate(rows, start=2):
        key = (row["case"], row["candidate"], row["reference"])
        try:
            told.setdefault(key, []).append({target: float(row[target]) for target in targets})
        except (TypeError, ValueError):
            raise CxrbenchError(
                "a number is missing or is none", where=f"{file}, line {number}", fix="write 0 where there is no error"
            ) from None
        names.setdefault(key, row.get("name") or str(sum(case == row["case"] for case, *_ in names)))
    return [
        Rated(key[0], names[key], key[1], key[2], {t: fmean(each[t] for each in given) for t in targets})
        for key, given in told.items()
    ]


FORMATS = ("radpref", "rexval", "radevalx", "table")


def read(form: str, path: Path, blank: float | None = None) -> tuple[list[Rated], list[str]]:
    """Ratings in one of `FORMATS`, and what a reader must know of how they were read.

    Raises:
        CxrbenchError: the file is not what the format says, or `blank` is given for another format than radevalx.
    """
    if form == "radevalx":
        rated, empty = radevalx(path, blank)
        return rated, [f"{empty} of {16 * len(rated)} counts were empty and are taken for {blank:g}"] if empty else []
    if blank is not None:
        raise CxrbenchError(f"--blank is for --format radevalx, not {form}", where="--blank", fix="leave it out")
    loaders = {"radpref": radpref, "rexval": rexval, "table": table}
    return loaders[form](path), []
