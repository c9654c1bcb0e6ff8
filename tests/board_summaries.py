"""Aggregate summaries made of numbers, for tests of boards: any size, any names, no run folder."""

from itertools import combinations

from cxrbench.report.aggregate import Cell, Group, Paired, Run, Summary, Task

F1, ROUGE, RADCLIQ = "label-f1:phantom/micro_f1", "rouge-l:raw/rouge_l", "radcliq:v1/radcliq"
BETTER = {F1: True, ROUGE: True, RADCLIQ: False}


def cell(key, value, *, signature=None, better=True, n=100):
    return Cell(
        value=value,
        ci=None if value is None else (value - 0.02, value + 0.02),
        n=n,
        signature=signature or f"{key.partition('/')[0]}|v:1",
        higher_is_better=better,
        primary=True,
    )


def group(patients, value=0.5, keys=tuple(BETTER)):
    return Group(
        n=2 * patients,
        clusters=patients,
        values={key: (value, value - 0.1, value + 0.1) for key in keys},
        gaps={key: (0.1, 0.01, 0.2) for key in keys},
    )


def run(number, model, values=None, **changes):
    """A run whose numbers are `values` by column; complete, one image seen, unless changed."""
    values = {key: 0.9 - 0.1 * number for key in BETTER} if values is None else values
    body = {
        "id": f"{number:08x}",
        "model": model,
        "about": {"weights": "5233dfe3", "engine": "transformers"},
        "policy": "task",
        "consumed": ("1 image",),
        "n": 100,
        "n_expected": 100,
        "clusters": 50,
        "cluster_unit": "patient",
        "outcomes": {"ok": 100},
        "truncated_share": 0.01 * number,
        "distinct": {"reports": 100, "distinct": 90 - number, "reference_distinct": 100},
        "values": {key: cell(key, value, better=BETTER.get(key, True)) for key, value in values.items()},
        "slices": {"sex": {"F": group(20), "M": group(30)}},
        "speed": {"reports_per_s": 1.0 + number, "latency_p50": 0.5},
        "machine": {"device": "cpu", "engine": "transformers"},
        "ci_level": 0.95,
        "ci_method": "bca, cluster bootstrap",
    }
    return Run(**(body | changes))


def summary(runs, *, p=0.001, access="open", task="demo-findings", data="d1", pairs=True, hides=()):
    """Runs of one task, every two tested with one p (or one by (a, b) of their ids); `hides` None: an old summary."""
    found = []
    for a, b in combinations(runs, 2) if pairs else ():
        values = {}
        for key in a.values.keys() & b.values.keys():
            if None not in (a.values[key].value, b.values[key].value):
                change = b.values[key].value - a.values[key].value
                chance = p.get((a.id, b.id), 0.001) if isinstance(p, dict) else p
                values[key] = (change, change - 0.03, change + 0.03, chance, 100)
        found.append(Paired(a=a.id, b=b.id, values=values))
    return Summary(
        cxrbench="0.1.0",
        task=Task(
            name=task, version=1, hash="9ec98b8a4808f2f9", title="Findings of drawn studies", kind="findings",
            access=access, dataset="phantom", citation="cxrbench phantom", n_full=100,
        ),
        question={"data": data, "limit": None, "images": None},
        exchanges=10_000,
        hides=None if hides is None else dict(hides),
        runs=tuple(runs),
        pairs=tuple(found),
    )  # fmt: skip
