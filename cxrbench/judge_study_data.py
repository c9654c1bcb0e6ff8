"""Ratings of people, in the forms they are published in, as one list: RadPref, ReXVal, and any table of one's own.

case, candidate report, reference report, and numbers by name: `errors:NAME` (fewer are better), `rating:NAME` (more
are better); each the mean over raters. RadEvalX is read as a table: its files differ from copy to copy.
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


def radpref(file: Path) -> list[Rated]:
    """RadPref of CRIMSON: a JSON object whose `items` have two candidates, rated 1-5 and marked for errors.

    Targets: `rating:overall`; `errors:all` (false findings, attribute errors, missing findings), and of these
    `errors:false`, `errors:attribute`, `errors:missing`, `errors:significant` (urgent or actionable findings, and
    attribute errors called significant).
    """
    try:
        items = json.loads(file.read_text(encoding="utf-8"))["items"]
        return [_radpref_candidate(item, name) for item in items for name in ("C1", "C2")]
    except OSError as error:
        raise CxrbenchError(f"the ratings cannot be read: {error.strerror}", where=str(file)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, f"this is not RadPref's form ({type(error).__name__}: {error})") from error


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


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            return [dict(row) for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise CxrbenchError(f"the table cannot be read: {said}", where=str(file)) from error


def rexval(folder: Path) -> list[Rated]:
    """ReXVal: the two tables of the PhysioNet release in a folder; six raters' error counts, summed per rater.

    `study_number` of the counts is an id of the reports' table, or a place in it (from 0, or from 1). Targets:
    `errors:all`, `errors:significant`, `errors:insignificant`, and one per kind.
    """
    reports, counts = _rows(folder / REXVAL_REPORTS), _rows(folder / REXVAL_ERRORS)
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
        raise _damaged(folder, f"these are not ReXVal's tables ({type(error).__name__}: {error})") from error


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


LOADERS = {"radpref": radpref, "rexval": rexval, "table": table}
