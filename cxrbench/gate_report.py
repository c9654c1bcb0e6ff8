"""What a gate found, for machines and people: JSON, JUnit XML, Markdown, workflow annotations.

Numbers only: no text, no id of a sample, no path. So the outputs of credentialed data may stand in a CI log.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cxrbench import __version__
from cxrbench.gate import Gate
from cxrbench.gate_metrics import Finding

SUMMARY_LIMIT = 1_000_000
"""Bytes of Markdown: GitHub drops a step summary of more than 1 MiB whole."""

ANNOTATIONS = 10
"""Errors, and as many warnings, that GitHub shows of one step."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_json(gate: Gate) -> dict[str, Any]:
    """What `gate check --json` prints; values unrounded."""
    return {
        "verdict": gate.verdict.status,
        "exit_code": int(gate.exit),
        **_about(gate),
        "policy": gate.policy.model_dump(mode="json"),
        "reasons": list(gate.verdict.reasons),
        "checks": [asdict(each) for each in gate.findings],
        "replicates": gate.replicates,
        "seed": gate.seed,
        "cxrbench": __version__,
    }


_SIDE = ("model", "run", "n", "n_expected", "truncated_share", "cxrbench")


def _about(gate: Gate) -> dict[str, Any]:
    both = gate.baseline or gate.candidate
    return {
        "task": both.get("task", {}).get("name"),
        "task_version": both.get("task", {}).get("version"),
        "data": both.get("data"),
        "cluster_unit": both.get("cluster_unit"),
        "baseline": {key: gate.baseline.get(key) for key in _SIDE},
        "candidate": {key: gate.candidate.get(key) for key in _SIDE},
    }


def sentence(finding: Finding) -> str:
    """One line of numbers: both values, the difference with its bounds, the margin, n and clusters, and why."""
    if finding.change is None or finding.baseline is None or finding.candidate is None:
        return finding.reason
    if finding.kind != "metric":
        bounds = f" [{finding.low:.3f}, {finding.high:.3f}]" if finding.low is not None else ""
        return f"{finding.reason}; ratio {finding.change:.3f}{bounds}"
    bounds = f" [{finding.low:+.4f}, {finding.high:+.4f}]" if finding.low is not None else ""
    return (
        f"{finding.baseline:.4f} -> {finding.candidate:.4f}, difference {finding.change:+.4f}{bounds}, "
        f"margin {finding.limit:g}, n = {finding.n} in {finding.clusters} clusters: {finding.reason}"
    )


def junit(gate: Gate) -> str:
    """JUnit XML: one case per check; a failed one is a failure, an undecided one is skipped, as viewers expect.

    Advisory checks stand in a suite of their own and never fail it. Viewers show skipped cases as harmless: the exit
    code, not the file, tells whether a gate is undecided.
    """
    task = str(_about(gate)["task"] or "gate")
    root = ET.Element("testsuites", name="cxrbench gate")
    blocking = [each for each in gate.findings if each.blocking]
    advisory = [each for each in gate.findings if not each.blocking]
    suite = _suite(root, task, blocking, fails=True)
    _properties(suite, gate)
    if not gate.findings:
        case = ET.SubElement(suite, "testcase", classname=_clean(task), name="gate", time="0")
        ET.SubElement(case, "skipped", message=_clean("; ".join(gate.verdict.reasons)))
        suite.set("tests", "1")
        suite.set("skipped", "1")
    if advisory:
        _suite(root, f"{task} (advisory)", advisory, fails=False)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(root: ET.Element, name: str, findings: Sequence[Finding], *, fails: bool) -> ET.Element:
    failed = sum(each.status == "fail" for each in findings) if fails else 0
    skipped = sum(each.status == "undecided" for each in findings) if fails else 0
    suite = ET.SubElement(
        root, "testsuite", name=_clean(name), tests=str(len(findings)), failures=str(failed), errors="0",
        skipped=str(skipped), time="0",
    )  # fmt: skip
    for each in findings:
        case = ET.SubElement(suite, "testcase", classname=_clean(name), name=_clean(each.name), time="0")
        if fails and each.status == "fail":
            ET.SubElement(case, "failure", message=_clean(sentence(each)), type="regression")
        elif fails and each.status == "undecided":
            ET.SubElement(case, "skipped", message=_clean(sentence(each)))
        else:
            ET.SubElement(case, "system-out").text = _clean(f"{each.status}: {sentence(each)}")
    return suite


def _properties(suite: ET.Element, gate: Gate) -> None:
    about = _about(gate)
    given: dict[str, Any] = {
        "verdict": gate.verdict.status,
        "policy": gate.policy.name,
        "alpha": gate.policy.alpha,
        "replicates": gate.replicates,
        "seed": gate.seed,
        "task_version": about["task_version"],
        "data": about["data"],
        "cxrbench": __version__,
    }
    for side in ("baseline", "candidate"):
        given |= {f"{side}.{key}": about[side][key] for key in ("model", "run", "n")}
    given |= {f"signature.{each.name}": each.signature for each in gate.findings if each.signature}
    holder = ET.Element("properties")
    for name, value in given.items():
        if value is not None:
            ET.SubElement(holder, "property", name=_clean(name), value=_clean(str(value)))
    suite.insert(0, holder)


def _clean(text: str) -> str:
    """XML has no way to write most control characters."""
    return _NOT_XML.sub("?", text)


def markdown(gate: Gate, limit: int = SUMMARY_LIMIT) -> str:
    """A step summary: the verdict first, one row per check, details folded; never longer than `limit` bytes."""
    rows = [_row(each) for each in gate.findings]
    made = _page(gate, rows)
    while len(made.encode()) > limit and rows:
        rows = rows[: len(rows) // 2]
        made = _page(gate, rows)
    return made


def _page(gate: Gate, rows: Sequence[str]) -> str:
    about = _about(gate)
    lines = [f"## cxrbench gate: {gate.verdict.status.upper()} · {_cell(about['task'] or '')}", ""]
    lines += [f"{_cell(_side(about['baseline']))} → {_cell(_side(about['candidate']))}", ""]
    if rows:
        lines += [
            "| check | | baseline | candidate | change | bounds | limit | p Holm | detectable |",
            "|---|---|--:|--:|--:|:-:|--:|--:|--:|",
            *rows,
        ]
        cut = len(gate.findings) - len(rows)
        lines += [f"| {cut} more checks are left out | | | | | | | | |"] if cut else []
    else:
        lines += [f"- {_cell(reason)}" for reason in gate.verdict.reasons[:ANNOTATIONS]]
    lines += ["", "<details><summary>What was asked</summary>", ""]
    share = gate.policy.alpha
    lines += [
        f"- policy `{gate.policy.name}`: bounds are one-sided at {1 - share:.1%}; a failure needs p Holm ≤ {share:g}",
        "- change: candidate - baseline for metrics (limit: the margin), candidate / baseline for guards",
        f"- {gate.replicates} resamples and exchanges by {about['cluster_unit'] or 'cluster'}, seed {gate.seed}",
        f"- task version {about['task_version']}, data {about['data']}, cxrbench {__version__}",
        *(f"- {_cell(each.name)}: {_cell(each.reason)}" for each in gate.findings[: len(rows)]),
        "",
        "</details>",
        "",
    ]
    return "\n".join(lines)


def _side(side: Mapping[str, Any]) -> str:
    return (
        f"{side['model']} ({side['run']}, {side['n']} of {side['n_expected']} samples)" if side["run"] else "not read"
    )


def _row(each: Finding) -> str:
    guard = each.kind != "metric"
    show = _mebibytes if each.kind == "memory" else _brief if guard else _figure
    cells = [
        each.name + ("" if each.blocking else " (advisory)"),
        f"**{each.status}**" if each.status != "pass" else "pass",
        show(each.baseline),
        show(each.candidate),
        "-" if each.change is None else f"× {each.change:.3f}" if guard else f"{each.change:+.4f}",
        "-" if each.low is None or each.high is None else f"[{each.low:.3f}, {each.high:.3f}]" if guard
        else f"[{each.low:+.4f}, {each.high:+.4f}]",
        "-" if each.limit is None else f"{each.limit:g}",
        _figure(each.p_holm),
        _figure(each.mde),
    ]  # fmt: skip
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _brief(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _mebibytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 2**20:.0f} MiB"


def _cell(text: Any) -> str:
    """A cell of a Markdown table: no new column, no new line, no tag."""
    out = " ".join(str(text).split())
    for char, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "'")):
        out = out.replace(char, safe)
    return out


def workflow_commands(gate: Gate) -> list[str]:
    """Workflow commands: an error per failed check, a warning per undecided one, within GitHub's limits."""
    found: list[str] = []
    for status, command in (("fail", "error"), ("undecided", "warning")):
        named = [each for each in gate.findings if each.status == status and each.blocking]
        shown = named if len(named) <= ANNOTATIONS else named[: ANNOTATIONS - 1]
        found += [_command(command, f"gate: {each.name}", sentence(each)) for each in shown]
        if len(named) > len(shown):
            found.append(_command(command, "gate", f"{len(named) - len(shown)} more: see the step summary"))
    if not gate.findings:
        found.append(_command("warning", "gate: undecided", "; ".join(gate.verdict.reasons)))
    counted = ", ".join(
        f"{sum(each.status == status and each.blocking for each in gate.findings)} {status}"
        for status in ("pass", "fail", "undecided")
    )
    return [*found, _command("notice", f"gate: {gate.verdict.status}", counted)]


def _command(command: str, title: str, message: str) -> str:
    """One workflow command with its escapes; properties know two more than messages."""
    plain = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A")]
    for char, code in plain:
        title, message = title.replace(char, code), message.replace(char, code)
    for char, code in ((":", "%3A"), (",", "%2C")):
        title = title.replace(char, code)
    return f"::{command} title={title}::{message}"
