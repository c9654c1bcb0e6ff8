"""Readers joined: means with intervals, differences, win rates, agreement; and every case, for `judge-study` to read.

Intervals resample patients (samples where a data set has no patients), so that ratings of one case by several readers,
and of one patient's cases, count as what they are. Readers are taken as given: nothing is said of other readers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.report.leaderboard import visible
from cxrbench.report.reader_study_agreement import Floats, Level, krippendorff_alpha, weighted_kappa
from cxrbench.report.reader_study_files import Answer, Item, Key, Responses
from cxrbench.report.reader_study_terms import ERRORS, POINTS, SCALES, SIGNIFICANCE
from cxrbench.stats import Interval, Table, Values, bootstrap
from cxrbench.summary import Confidence, number

WHAT = "cxrbench reader study"


@dataclass(frozen=True, slots=True)
class Rated:
    """One number that a reader gave: of which case (its first reading's item), of which patient's, of what."""

    reader: str
    item: str
    patient: str
    about: tuple[str, ...]
    """("rating", scale, system), ("error", kind, significance, system) or ("prefer", a, b)."""
    value: float
    first_side: float | None = None
    """For a preference: 1 where the report on the first side was preferred, 0.5 for equal, 0 for the second."""


class _Mean:
    """The mean of a column: what an interval is made of."""

    additive = True

    def value(self, sums: Floats) -> Values:
        return {"mean": np.asarray(sums[..., 1] / sums[..., 0])}

    def value_weighted(self, rows: Floats, weights: Floats) -> Values:
        return self.value(weights @ rows)


def analyse(key: Key, responses: Sequence[Responses], confidence: Confidence) -> dict[str, Any]:
    """Everything a reader study says, as one JSON object; values unrounded.

    Raises:
        CxrbenchError: nobody answered anything.
    """
    first = [each for one in responses for each in _rated(key, one, again=False)]
    again = [each for one in responses for each in _rated(key, one, again=True)]
    if not first:
        raise CxrbenchError("nobody has answered anything", fix="export the answers from the form", code=Exit.UNDECIDED)
    readers = [one.reader for one in responses]
    names = [system.name for system in key.systems]
    cases = {name: item for name, item in key.items.items() if item.repeats is None}
    answered = {each.item for each in first}
    return {
        "what": WHAT,
        "study": key.study,
        "task": key.task,
        "access": key.access,
        "readers": readers,
        "n": len(answered),
        "n_expected": len(cases),
        "clusters": len({cases[name].patient for name in answered}),
        "cluster_unit": key.cluster_unit,
        "ci_level": confidence.level,
        "ci_method": f"{confidence.method}, cluster bootstrap",
        "answered": {reader: len({each.item for each in first if each.reader == reader}) for reader in readers},
        "systems": {name: _system(name, first, confidence) for name in names},
        "differences": [_difference(a, b, first, confidence) for a, b in combinations(names, 2)],
        "preferences": [_preference(a, b, first, confidence) for a, b in combinations(names, 2)],
        "sides": _sides(first, confidence),
        "agreement": _agreement(first, readers, names),
        "repeats": _repeats(first, again, readers),
        "cases": [_case(name, item, key, first) for name, item in sorted(cases.items()) if name in answered],
    }


def _rated(key: Key, responses: Responses, *, again: bool) -> Iterator[Rated]:
    """Every number of a reader, unblinded: of first readings, or of cases read again with sides swapped."""
    for name, answer in sorted(responses.items.items()):
        item = key.items[name]
        if (item.repeats is not None) == again:
            yield from _of_item(key, responses.reader, item.repeats or name, item, answer)


def _of_item(key: Key, reader: str, name: str, item: Item, answer: Answer) -> Iterator[Rated]:
    systems = [key.systems[number].name for number in item.order]
    for system, rating in zip(systems, answer.ratings, strict=bool(answer.ratings)):
        for scale, value in rating.items():
            yield Rated(reader, name, item.patient, ("rating", scale, system), float(value))
    for system, errors in zip(systems, answer.errors, strict=bool(answer.errors)):
        if errors is not None:  # marked, or said to have none: a category that is not named has none
            for kind in ERRORS:
                for at, significance in enumerate(SIGNIFICANCE):
                    count = errors.get(kind, (0, 0))[at]
                    yield Rated(reader, name, item.patient, ("error", kind, significance, system), float(count))
    for pair, choice in answer.preferences.items():
        left, right = (item.order[int(position)] for position in pair.split("-"))
        side = {"first": 1.0, "second": 0.0, "equal": 0.5}[choice]
        a, b = sorted((left, right))
        score = side if left == a else 1 - side
        yield Rated(reader, name, item.patient, ("prefer", key.systems[a].name, key.systems[b].name), score, side)


def _mean(some: Sequence[tuple[str, float]], confidence: Confidence) -> dict[str, Any]:
    """Mean of (patient, value) pairs with its interval."""
    if not some:
        return {"mean": None, "ci": None, "n": 0}
    rows = np.array([[1.0, value] for _, value in some])
    found: Interval = bootstrap(
        {"mean": Table(rows, _Mean())},
        [patient for patient, _ in some],
        method=confidence.method,  # type: ignore[arg-type]
        level=confidence.level,
        replicates=confidence.replicates,
        seed=confidence.seed,
    )["mean"]["mean"]
    made: dict[str, Any] = {
        "mean": number(found.value),
        "ci": None if found.low is None else [found.low, found.high],
        "n": len(some),
    }
    return made | ({"note": found.note} if found.note else {})


def _totals(rated: Sequence[Rated], system: str, significance: str) -> list[tuple[str, float]]:
    """Errors of one significance in each reading of a report, all categories together."""
    total: dict[tuple[str, str, str], float] = defaultdict(float)
    for each in rated:
        if each.about[0] == "error" and each.about[2:] == (significance, system):
            total[each.reader, each.item, each.patient] += each.value
    return [(patient, value) for (_, _, patient), value in sorted(total.items())]


def _system(name: str, rated: Sequence[Rated], confidence: Confidence) -> dict[str, Any]:
    """Means of one system: of each scale, and errors per report."""

    def of(*about: str) -> dict[str, Any]:
        return _mean([(each.patient, each.value) for each in rated if each.about == about], confidence)

    return {
        "ratings": {scale: of("rating", scale, name) for scale in SCALES},
        "errors": {
            significance: {
                "total": _mean(_totals(rated, name, significance), confidence),
                **{kind: of("error", kind, significance, name) for kind in ERRORS},
            }
            for significance in SIGNIFICANCE
        },
    }


def _difference(a: str, b: str, rated: Sequence[Rated], confidence: Confidence) -> dict[str, Any]:
    """`b` minus `a` by scale, within reader and case."""
    out: dict[str, Any] = {"a": a, "b": b, "ratings": {}}
    for scale in SCALES:
        by = {
            name: {(each.reader, each.item): each for each in rated if each.about == ("rating", scale, name)}
            for name in (a, b)
        }
        both = [where for where in by[a] if where in by[b]]
        pairs = [(by[a][where].patient, by[b][where].value - by[a][where].value) for where in both]
        out["ratings"][scale] = _mean(pairs, confidence)
    return out


def _preference(a: str, b: str, rated: Sequence[Rated], confidence: Confidence) -> dict[str, Any]:
    """How often `a` was preferred to `b`: win rate = (wins + ties / 2) / n."""
    some = [each for each in rated if each.about == ("prefer", a, b)]
    found = _mean([(each.patient, each.value) for each in some], confidence)
    found["win_rate"] = found.pop("mean")
    counts = {"wins": 1.0, "ties": 0.5, "losses": 0.0}
    return {
        "a": a,
        "b": b,
        **{what: sum(each.value == score for each in some) for what, score in counts.items()},
        **found,
    }


def _sides(rated: Sequence[Rated], confidence: Confidence) -> dict[str, Any]:
    """How often the report on the first side was preferred: far from one half says that sides decided."""
    found = _mean([(each.patient, each.first_side) for each in rated if each.first_side is not None], confidence)
    found["first_side_rate"] = found.pop("mean")
    return found


def _matrix(rated: Sequence[Rated], readers: Sequence[str], chosen: Callable[[Rated], bool]) -> Floats:
    """(readers, units) of the numbers chosen; a unit is a case and what is rated of it."""
    some = [each for each in rated if chosen(each)]
    units = {unit: at for at, unit in enumerate(sorted({(each.item, each.about) for each in some}))}
    out = np.full((len(readers), len(units)), np.nan)
    place = {reader: at for at, reader in enumerate(readers)}
    for each in some:
        out[place[each.reader], units[each.item, each.about]] = each.value
    return out


def _agree(ratings: Floats, readers: Sequence[str], categories: Sequence[float], level: Level) -> dict[str, Any]:
    """Alpha of all readers, kappa of every two, over the units that at least two have rated."""
    shared = ratings[:, (~np.isnan(ratings)).sum(axis=0) > 1]
    kappas: list[dict[str, Any]] = [
        {
            "readers": [readers[a], readers[b]],
            "kappa": number(weighted_kappa(ratings[a], ratings[b], np.array(categories))),
            "n": int((~np.isnan(ratings[a]) & ~np.isnan(ratings[b])).sum()),
        }
        for a, b in combinations(range(len(readers)), 2)
    ]
    known = [each["kappa"] for each in kappas if each["kappa"] is not None]
    return {
        "alpha": number(krippendorff_alpha(shared, level)),
        "level": level,
        "units": int(shared.shape[1]),
        "weights": "quadratic",
        "kappa_mean": sum(known) / len(known) if known else None,
        "kappas": kappas,
    }


def _agreement(rated: Sequence[Rated], readers: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Agreement on each scale, on preferences, and on the number of significant errors in a report."""
    found: dict[str, Any] = {}
    for scale in SCALES:
        ratings = _matrix(rated, readers, lambda each, scale=scale: each.about[:2] == ("rating", scale))  # type: ignore[misc]
        found[scale] = _agree(ratings, readers, POINTS, "ordinal")
    found["preference"] = _agree(
        _matrix(rated, readers, lambda each: each.about[0] == "prefer"), readers, (0.0, 0.5, 1.0), "ordinal"
    )
    found["significant_errors"] = _errors_agree(rated, readers, names)
    return found


def _errors_agree(rated: Sequence[Rated], readers: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Alpha of the counts of significant errors; kappa needs a fixed list of categories, which counts have not."""
    total: dict[tuple[str, str, str], float] = defaultdict(float)
    for each in rated:
        if each.about[0] == "error" and each.about[2] == "significant":
            total[each.reader, each.item, each.about[3]] += each.value
    units = sorted({(item, system) for _, item, system in total})
    counts = np.array([[total.get((reader, *unit), np.nan) for unit in units] for reader in readers])
    shared = counts[:, (~np.isnan(counts)).sum(axis=0) > 1] if units else np.zeros((len(readers), 0))
    return {"alpha": number(krippendorff_alpha(shared, "ordinal")), "level": "ordinal", "units": int(shared.shape[1])}


def _repeats(first: Sequence[Rated], again: Sequence[Rated], readers: Sequence[str]) -> dict[str, Any]:
    """How often a reader preferred the same report when the sides were swapped."""
    before = {(each.reader, each.item, each.about): each.value for each in first if each.about[0] == "prefer"}
    out = {}
    for reader in readers:
        pairs = [
            (before[reader, each.item, each.about], each.value)
            for each in again
            if each.reader == reader and (reader, each.item, each.about) in before
        ]
        same = sum(one == two for one, two in pairs)
        out[reader] = {"same": same, "n": len(pairs), "share": same / len(pairs) if pairs else None}
    return out


def _case(name: str, item: Item, key: Key, rated: Sequence[Rated]) -> dict[str, Any]:
    """One case: what each reader said of each system. Samples and patients are named by HMACs."""
    here = [each for each in rated if each.item == name]
    systems: dict[str, Any] = {}
    for system in key.systems:
        ratings: dict[str, dict[str, float]] = {scale: {} for scale in SCALES}
        errors: dict[str, dict[str, float]] = {each: defaultdict(float) for each in SIGNIFICANCE}
        for each in here:
            if each.about[0] == "rating" and each.about[2] == system.name:
                ratings[each.about[1]][each.reader] = each.value
            if each.about[0] == "error" and each.about[3] == system.name:
                errors[each.about[2]][each.reader] += each.value
        systems[system.name] = {
            "run": system.run,
            "ratings": ratings,
            "errors": {k: dict(v) for k, v in errors.items()},
        }
    preferences: dict[str, dict[str, float]] = defaultdict(dict)
    for each in here:
        if each.about[0] == "prefer":
            preferences[f"{each.about[1]} over {each.about[2]}"][each.reader] = each.value
    return {"sample": item.sample, "patient": item.patient, "systems": systems, "preferences": dict(preferences)}


def unanswered(result: Mapping[str, Any]) -> list[str]:
    """Readers who have not answered every case."""
    return [
        f"reader {visible(reader)}: {count} of {result['n_expected']} cases"
        for reader, count in result["answered"].items()
        if count < result["n_expected"]
    ]
