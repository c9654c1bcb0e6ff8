"""Runs a reference package on texts, in the environment that has it. Started by path, never imported by cxrbench.

It reads `job.json` of the working directory, a folder of its owner alone, and writes `result.json` there: texts come
and go through these two files and nowhere else. It knows the standard library and the packages, nothing of cxrbench,
and must run on the older Pythons these packages need.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import sys
import traceback
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Any

Job = dict[str, Any]
Found = dict[str, Any]
"""`pairs`: metric -> value -> one number per pair (None: the package has none). `corpus`: metric -> value -> number.
`texts`: what it says of each distinct text, in the order of the job's `texts`. `folds`: whether RadGraph's scorer folds
case."""


def chexbert(job: Job) -> Found:
    """Labels of each text, cosines of [CLS] vectors, and the averages of its report."""
    import pandas
    import torch
    from f1chexbert import f1chexbert as package

    package.CACHE_DIR = job["folder"]
    labeler = package.F1CheXbert(device="cpu")
    labels = {text: labeler.get_label(text, mode="classification") for text in job["texts"]}
    positive = positive_of(labeler, labels)
    vectors = {}
    with torch.no_grad():
        for text in job["texts"]:
            ids = torch.tensor(package.tokenize(pandas.Series([text]), labeler.tokenizer))
            vectors[text] = labeler.model.bert(ids, attention_mask=torch.ones(ids.shape))[0][0, 0].double()
    both = list(zip(job["predictions"], job["references"]))
    cosines = [float(torch.nn.functional.cosine_similarity(vectors[a], vectors[b], dim=0)) for a, b in both]
    known = {**{text.strip(): label for text, label in positive.items()}, **positive}
    labeler.get_label = lambda text, mode="rrg": known[text]
    _, _, fourteen, five = labeler(hyps=job["predictions"], refs=job["references"])
    names = {"micro": "micro avg", "macro": "macro avg", "weighted": "weighted avg", "example": "samples avg"}
    averages = {
        f"{ours}_{what}_{scope}": report[theirs][column]
        for scope, report in (("14", fourteen), ("5", five))
        for ours, theirs in names.items()
        for what, column in (("f1", "f1-score"), ("precision", "precision"), ("recall", "recall"))
    }
    return {
        "texts": [labels[text] for text in job["texts"]],
        "corpus": {"chexbert-f1:miura": averages},
        "pairs": {"semb-score:chexbert": {"semb_score": cosines}},
    }


PROBED = 8
"""Texts on which the package's own rule for doubt is run."""


def positive_of(labeler: Any, labels: dict[str, Any]) -> dict[str, list[int]]:
    """The positive labels of each text, as the package's `rrg` mode has them, without running the network once more.

    That this is its rule is seen on a few texts, those with an uncertain label first: the rule is about them.
    """
    positive = {text: [int(label in (1, -1)) for label in found] for text, found in labels.items()}
    probed = sorted(labels, key=lambda text: -1 not in labels[text])[:PROBED]
    if any(list(labeler.get_label(text)) != positive[text] for text in probed):
        raise ValueError("the package's rule for uncertain labels is another one")
    return positive


def folds(compute_reward: Any) -> bool:
    """Whether a scorer of radgraph takes two words for the same that differ in case only."""
    words = ("Edema", "edema")
    sides: list[Any] = [{"entities": {"1": {"tokens": each, "label": "x", "relations": []}}} for each in words]
    return bool(compute_reward(*sides, "simple") > 0)


def radgraph(job: Job) -> Found:
    """Annotations of each text, and F1 of every pair at three levels."""
    from radgraph.radgraph import F1RadGraph
    from radgraph.rewards import compute_reward

    package = F1RadGraph(reward_level="all", model_type=job["model_type"], model_cache_dir=job["cache"], cuda=-1)
    _, rewards, said, true = package(hyps=job["predictions"], refs=job["references"])
    kept = [(p, r) for p, r in zip(job["predictions"], job["references"]) if p and r]
    known = {}
    for (prediction, reference), left, right in zip(kept, said, true):
        known[prediction], known[reference] = left["entities"], right["entities"]
    pairs = {job["keys"][level]: {"f1": rewards[i]} for i, level in enumerate(("simple", "partial", "complete"))}
    return {"texts": [known.get(text) for text in job["texts"]], "pairs": pairs, "folds": folds(compute_reward)}


def bertscore(job: Job) -> Found:
    """P, R, F of each pair; one at a time, since its numbers depend on what a pair is padded to."""
    import bert_score

    given = {}
    if job["baseline"]:
        folder = Path(bert_score.__file__).parent / "rescale_baseline" / "en"
        given = {"lang": "en", "rescale_with_baseline": True, "baseline_path": str(folder / (job["baseline"] + ".tsv"))}
    columns = bert_score.score(
        job["predictions"], job["references"], model_type=job["folder"], num_layers=job["layer"], idf=job["idf"],
        batch_size=1, device="cpu", **given,
    )  # fmt: skip
    named = {name: column.tolist() for name, column in zip(("precision", "recall", "f1"), columns)}
    return {"pairs": {job["key"]: named}}


def ratescore(job: Job) -> Found:
    """The score of each pair by itself: of several together, one without a usable sentence would move the others."""
    from RaTEScore import RaTEScore

    package = RaTEScore(job["ner"], job["encoder"], use_gpu=False, affinity_matrix=job["preset"])
    scores = []
    for prediction, reference in zip(job["predictions"], job["references"]):
        found = package.compute_score([prediction], [reference])
        scores.append(float(found[0]) if len(found) == 1 else None)
    return {"pairs": {job["key"]: {"ratescore": scores}}}


def coco(job: Job) -> Found:
    """A metric of pycocoevalcap, per pair and in all."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer import ptbtokenizer

    # It writes the texts beside its jar, in the package's own folder: here, the job's folder is that.
    jar = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    Path(jar.name).symlink_to(jar)
    ptbtokenizer.__file__ = str(Path.cwd() / "ptbtokenizer.py")
    said, true = ({i: [text] for i, text in enumerate(job[side])} for side in ("predictions", "references"))
    if job["ptb"]:
        tokenizer = ptbtokenizer.PTBTokenizer()
        said, true = (tokenizer.tokenize({i: [{"caption": t[0]}] for i, t in side.items()}) for side in (said, true))
    scorer = {"bleu": lambda: Bleu(4), "rouge_l": Rouge, "cider": Cider, "meteor": Meteor}[job["scorer"]]()
    corpus, pairs = scorer.compute_score(true, said)
    if job["scorer"] == "bleu":
        named = {f"bleu_{i + 1}": (corpus[i], list(map(float, pairs[i]))) for i in range(4)}
    else:
        named = {job["scorer"]: (float(corpus), [float(each) for each in pairs])}
    return {
        "corpus": {job["key"]: {name: value[0] for name, value in named.items()}},
        "pairs": {job["key"]: {name: value[1] for name, value in named.items()}},
    }


def rouge_score(job: Job) -> Found:
    """ROUGE-1, -2 and -L of each pair."""
    from rouge_score.rouge_scorer import RougeScorer

    names = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}
    scorer = RougeScorer(list(names), use_stemmer=job["stems"])
    rows = [scorer.score(true, said) for said, true in zip(job["predictions"], job["references"])]
    return {"pairs": {job["key"]: {ours: [row[theirs].fmeasure for row in rows] for theirs, ours in names.items()}}}


def sacrebleu(job: Job) -> Found:
    """BLEU of the corpus, 0 to 1."""
    from sacrebleu.metrics import BLEU

    orders = range(1, 5)
    scores = {
        f"bleu_{n}": BLEU(max_ngram_order=n).corpus_score(job["predictions"], [job["references"]]).score / 100
        for n in orders
    }
    return {"corpus": {job["key"]: scores}}


def texts(job: Job) -> Found:
    """Lists of texts that a package holds in its source or its description, read without importing it."""
    if _version(job["package"]) is None:
        return {"absent": True, "predictions": [], "references": []}
    found: dict[str, list[str]] = {}
    for source in _sources(job):
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a description may hold anything
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                told = _listed(node.value)
                if told is not None:
                    found.setdefault(node.targets[0].id, told)
    return {"absent": False, **{side: found.get(job[side], []) for side in ("predictions", "references")}}


def _sources(job: Job) -> list[str]:
    """The text of a module, or the blocks of Python in a package's description."""
    if job["file"] == "METADATA":
        held: Any = metadata(job["package"])
        return re.findall(r"```python\n(.*?)```", held.get_payload() or held.get("Description") or "", re.DOTALL)
    spec = importlib.util.find_spec(job["package"])
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name=job["package"])
    return [(Path(spec.origin).parent / job["file"]).read_text(encoding="utf-8")]


def _listed(value: ast.expr) -> list[str] | None:
    """A list of texts, or the one that a function is called with."""
    if isinstance(value, ast.Call) and len(value.args) == 1:
        value = value.args[0]
    if isinstance(value, ast.List) and all(
        isinstance(each, ast.Constant) and isinstance(each.value, str) for each in value.elts
    ):
        return list(ast.literal_eval(value))
    return None


TASKS = {
    each.__name__: each for each in (chexbert, radgraph, bertscore, ratescore, coco, rouge_score, sacrebleu, texts)
}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> int:
    """Do the job; what goes wrong is told by kind and place, never by message, which may quote a text."""
    job = json.loads(Path("job.json").read_text(encoding="utf-8"))
    result: Found = {"python": sys.version.split()[0], "versions": {}}
    try:
        result.update(TASKS[job["task"]](job))
        result["versions"] = {name: _version(name) for name in job["versions"] if _version(name)}
    except BaseException as error:
        if job["debug"]:
            traceback.print_exc()
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        place = traceback.extract_tb(error.__traceback__)[-1:]
        where = f"{Path(place[0].filename).name}:{place[0].lineno}" if place else ""
        result["error"] = {"kind": type(error).__name__, "missing": missing, "where": where}
    with open(os.open("result.part", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(result, file)
    Path("result.part").replace("result.json")  # whole or not there, however this process ends
    return 0


if __name__ == "__main__":
    sys.exit(main())
