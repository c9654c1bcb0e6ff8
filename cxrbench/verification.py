"""Does a metric give the figures that were published, and those of its reference package, with the weights here?

Two kinds of check: published cases (metric_cases.py), and, given an environment that has the reference package, the
package's numbers of the same texts with the same weights (reference_runs.py). What came out is remembered
(verified.py) and read by signatures. Touches metrics, features by name.
"""

from __future__ import annotations

import datetime
import itertools
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrbench import __version__, assets, reference_runs, verified
from cxrbench.data.phantom import report, study_id
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.base import device_kind
from cxrbench.metric_cases import Case, Expected, cases
from cxrbench.metrics.base import Context, Floats, Metric, Pairs, Resources
from cxrbench.own_figures import Ours, pairs_of
from cxrbench.scoring import make_metric
from cxrbench.verdicts import Check, Comparison, Line, Verdict, outcome_of

if TYPE_CHECKING:
    from cxrbench.config import Config

PARTS: Mapping[str, tuple[str, ...]] = {"radcliq": ("radgraph-f1:combined", "bertscore:rexrank", "semb-score")}
"""Metrics that are arithmetic on others: these are verified in their place."""

PHANTOM = 24
"""Made-up pairs that every comparison takes."""


def keys_of(name: str) -> list[str]:
    """The metrics that are verified when `name[:preset]` is asked for.

    Raises:
        CxrbenchError: an unknown metric or preset, or one there is nothing to compare with.
    """
    metric = make_metric(name)
    if metric.name in PARTS:
        return [make_metric(part).key for part in PARTS[metric.name]]
    if metric.name not in reference_runs.REFERENCES:
        raise CxrbenchError(
            f"{metric.name} is cxrbench's own: there is no published figure and no package to compare it with",
            where=f"verify metric {name}",
            fix=f"one of: {', '.join([*reference_runs.REFERENCES, *PARTS])}",
        )
    if not assets.needed_by(metric.key) and reference_runs.find(metric.name, metric.preset, Context(), None) is None:
        raise CxrbenchError(
            f"there is neither a published case nor a package for {metric.key}",
            where=f"verify metric {name}",
            fix=f"another preset of {metric.name}: {', '.join(metric.presets)}",
        )
    return [metric.key]


def require(keys: Iterable[str], config: Config) -> None:
    """See that metrics can run here, before anything long begins.

    Raises:
        CxrbenchError: weights are missing, all of them in one sentence with the command that fetches them.
    """
    metrics = [make_metric(key) for key in keys]
    reason = next((reason for metric in metrics if (reason := metric.ready()) is not None), None)
    needed = dict.fromkeys(asset.name for metric in metrics for asset in assets.needed_by(metric.key))
    reason = reason or assets.missing(*needed, config=config)
    if reason is not None:
        raise CxrbenchError(reason, code=Exit.UNDECIDED)


# Published cases


def _family(key: str) -> tuple[str, ...]:
    """Presets that read the same weights are verified together; those that read none stand for themselves."""
    needed = tuple(asset.name for asset in assets.needed_by(key))
    return (key.partition(":")[0], *needed) if needed else (key,)


def cases_of(key: str, known: Sequence[Case]) -> list[Case]:
    """The cases with figures for a metric or another preset on the same weights; other figures are left out of them."""
    found = []
    for case in known:
        fitting = tuple(each for each in case.expected if any(_family(m) == _family(key) for m in each.metrics))
        if fitting:
            found.append(case.model_copy(update={"expected": fitting}))
    return found


def _texts_of(case: Case, python: Path | None) -> tuple[Pairs | None, str]:
    """The pairs of a case, or None and why there are none."""
    if case.texts is None:
        return pairs_of([(pair.prediction, pair.reference) for pair in case.pairs]), ""
    if python is None:
        return None, f"its texts are not shipped; --python ENV reads them from the package {case.texts.package}"
    held = reference_runs.package_texts(python, case.texts.model_dump())
    if held is None:
        return None, f"its texts are not shipped, and the package that holds them, {case.texts.package}, is not there"
    predictions, references = held
    if not case.texts.fit(predictions, references):
        return None, f"the package {case.texts.package} there holds other texts"
    return pairs_of(list(zip(predictions, references, strict=True))), ""


def check(case: Case, expected: Expected, key: str, ours: Ours) -> list[Check]:
    """Measure the figures of a case for the metric of it that is verified with `key`."""
    metric = next(each for each in expected.metrics if _family(each) == _family(key))
    found: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {}
    if expected.corpus:
        corpus = ours.corpus(metric)
        found |= {name: ((number,), (corpus[name],)) for name, number in expected.corpus.items()}
    if expected.per_pair:
        single = ours.per_pair(metric)
        for name, numbers in expected.per_pair.items():
            found[f"{name}, per pair"] = (tuple(numbers), tuple(map(float, single[name])))
    if expected.entities:
        said = ours.said(metric)
        same = [
            float(said[text] == dict(entities))
            for text, entities in zip(ours.pairs.predictions, expected.entities, strict=True)
        ]
        found["entities and relations equal"] = ((1.0,) * len(same), tuple(same))
    return [
        Check(case.name, metric, name, expected.evidence, *both, expected.tolerance, expected.note)
        for name, both in found.items()
    ]


# Comparison


def phantom_pairs() -> list[tuple[str, str]]:
    """Made-up findings, each with those of the next study as its reference; nobody's, so that anyone may have them."""
    made = [report(study_id(0, "test", index)).findings.text for index in range(PHANTOM + 1)]
    return list(itertools.pairwise(made))


FOLDING = (
    "this radgraph compares words without their case, as the released 0.1.18 does not, though it calls itself that, "
    "too: pip install --force-reinstall radgraph==0.1.18"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """How to verify: an environment with the package (None: published cases only), further texts of the user's.

    `device` is what cxrbench reads texts on, `limit` the seconds a package may take.
    """

    python: Path | None = None
    texts: Sequence[tuple[str, str]] | None = None
    debug: bool = False
    device: str = "cpu"
    limit: float = reference_runs.LIMIT


def compare(
    key: str, both: Sequence[tuple[str, str]], texts: str, python: Path, config: Config, asked: Asked
) -> Comparison:
    """Run the reference package on pairs and compare.

    Raises:
        CxrbenchError: there is no package for the preset, it is not in the environment, or it failed.
    """
    metric, context = Ours(pairs_of(both), config).fit(key)
    found = reference_runs.find(metric.name, metric.preset, context, config)
    if found is None:
        raise CxrbenchError(
            f"there is no package to compare {key} with",
            where=f"--python {python}",
            fix="another preset, or leave it out",
        )
    reference, job, links = found
    lacking = reference_runs.lacking(reference, pairs_of(both))
    pairs = pairs_of([pair for pair, lost in zip(both, lacking, strict=True) if not lost])
    if not len(pairs):
        raise CxrbenchError(f"{reference.package} can do none of the {len(both)} pairs: {reference.why}")
    given = reference_runs.compare_job(reference, job, pairs)
    theirs = reference_runs.run(
        python, given, links, reference.package, reference.install, debug=asked.debug, limit=asked.limit
    )
    ours = Ours(pairs, config, asked.device)
    lines, none = _lines(key, ours, theirs, given["texts"], reference.tolerance)
    left_out = sum(lacking) + none
    distinct = {pair for pair in zip(pairs.predictions, pairs.references, strict=True) if pair[0] != pair[1]}
    return Comparison(
        reference.package, theirs["versions"], theirs["python"], texts, len(both), left_out,
        reference.why if left_out else "", tuple(lines), len(distinct) - none, FOLDING if theirs.get("folds") else "",
    )  # fmt: skip


def _lines(
    key: str, ours: Ours, theirs: Mapping[str, Any], texts: Sequence[str], tolerance: float
) -> tuple[list[Line], int]:
    """What both say, line by line, and how many pairs the package gave no number of."""
    lines, none = [], 0
    said = ours.said(key) if "texts" in theirs else {}
    if said:
        told = {text: each for text, each in zip(texts, theirs["texts"], strict=True) if each is not None}
        differ = sum(said[text] != each for text, each in told.items())
        what = "labels of a text" if key.startswith("chexbert") else "entities and relations of a text"
        lines.append(Line(what, len(told), differ, None, 0.0, len({str(each) for each in told.values()}) > 1))
    for metric, values in theirs.get("pairs", {}).items():
        if _family(metric) != _family(key):
            continue
        mine = ours.per_pair(metric)
        for value, numbers in values.items():
            if len(numbers) != len(ours.pairs):
                raise CxrbenchError(
                    f"{len(ours.pairs)} pairs went into the package, {len(numbers)} numbers came out",
                    where=f"{metric} {value}",
                    code=Exit.UNDECIDED,
                )
            other = np.array([np.nan if each is None else each for each in numbers], np.float64)
            there = np.array([each is not None for each in numbers])
            none = max(none, int((~there).sum()))
            line = _line(f"{metric} {value}, per pair", mine[value][there], other[there], tolerance)
            lines.append(replace(line, varied=len({*other[np.isfinite(other)]}) > 1))
    for metric, values in theirs.get("corpus", {}).items():
        if _family(metric) == _family(key):
            whole = ours.corpus(metric)
            what = f"{metric} of all pairs: {', '.join(values) if len(values) < 5 else f'{len(values)} values'}"
            left, right = (np.array([side[name] for name in values], np.float64) for side in (whole, values))
            lines.append(_line(what, left, right, tolerance))
    return lines, none


def _line(what: str, mine: Floats, other: Floats, tolerance: float) -> Line:
    """Two not-a-numbers are equal: both sides had nothing to say."""
    apart = np.where(np.isnan(mine) & np.isnan(other), 0.0, np.abs(mine - other))
    return Line(what, len(mine), int((~(apart <= tolerance)).sum()), float(apart.max(initial=0.0)), tolerance)


# The verdict


def verify(key: str, asked: Asked, config: Config) -> Verdict:
    """Verify one metric, and remember the outcome where it has published weights.

    Raises:
        CxrbenchError: weights or packages are missing; the package failed; the record there is damaged.
    """
    metric, context = Ours(pairs_of([("", "")]), config).fit(key)
    subject, device = _subject(metric, context, asked, config)
    if subject is not None:
        verified.recall(subject)  # a damaged record is told before anything long begins
    checks: list[Check] = []
    not_run: dict[str, str] = {}
    shipped: list[tuple[str, str]] = []
    for case in cases_of(key, cases()):
        pairs, why = _texts_of(case, asked.python)
        if pairs is None:
            not_run[case.name] = why
            continue
        shipped += zip(pairs.predictions, pairs.references, strict=True)
        ours = Ours(pairs, config, asked.device)
        for expected in case.expected:
            checks += check(case, expected, key, ours)
    comparison, both = None, shipped
    if asked.python is not None:
        # Own texts come on top: few or easy ones by themselves would make any two annotators agree.
        both = [*shipped, *phantom_pairs(), *(asked.texts or ())]
        named = [("texts of the cases", shipped), ("made-up ones", True), ("own ones", asked.texts)]
        comparison = compare(key, both, ", ".join(name for name, given in named if given), asked.python, config, asked)
    metric, context = Ours(pairs_of(both), config).fit(key)
    remembered = _remember(_subject(metric, context, asked, config)[0], checks, comparison)
    with verified.scored_on(lambda: device or "cpu"):
        signature = metric.signature(context, "none")
    return Verdict(
        key, signature, _weights(context), tuple(checks), not_run, comparison, remembered, _machine(), device
    )  # fmt: skip


def _subject(
    metric: Metric, context: Context, asked: Asked, config: Config
) -> tuple[verified.Subject | None, str | None]:
    """What an outcome is remembered for, and the kind of device; None and None where no weights are read."""
    subject = metric.subject(context)
    if subject is None:
        return None, None
    device = device_kind(Resources(config=config, device=asked.device))
    return replace(subject, device=device), device


def _remember(subject: verified.Subject | None, checks: Sequence[Check], comparison: Comparison | None) -> bool:
    """Write the outcome down, where there is one; whether that was done.

    That a package agrees on too few pairs, or says the same of all, is no pass to remember; that it differs always is.
    """
    outcomes = {f"{each.case}: {each.metric} {each.value}": each.passed for each in checks}
    if comparison is not None and comparison.said and (comparison.telling or not comparison.passed):
        outcomes[f"package: {comparison.package}"] = comparison.passed
    nothing = not outcomes or outcome_of(checks, comparison) == "not verified"
    if subject is None or subject.embedded or nothing:
        return False
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    verified.remember(subject, outcomes, {"date": today, **_machine()})
    return True


def _weights(context: Context) -> dict[str, str]:
    """Name -> hash of what the metric was fitted with."""
    held = [each for each in context.data.values() if isinstance(each, Mapping) and {"name", "hash"} <= set(each)]
    return {str(each["name"]): str(each["hash"]) for each in held}


def _machine() -> dict[str, str]:
    found = {"cxrbench": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in ("torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
