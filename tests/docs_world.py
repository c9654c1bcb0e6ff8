"""What the pages' commands speak of, small: data sets with invented text, checkpoints of random weights, runs, servers.

Every function of `PLACES` puts one thing into a page's folder, under the name the page gives it. What takes more than
a moment to make is made once (`Store`) and copied.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.chat_server import ChatServer, answer
from tests.docs_commands import ROOT
from tests.judges.answers import chexprompt_answer, green_answer
from tests.small_hub import FIRST, Hub, Session, tar_gz

FEW = ("--replicates", "0")
ASSETS = {
    "google-bert/bert-base-uncased": "bert-base-uncased",
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext": "pubmedbert",
    "distilbert/distilroberta-base": "distilroberta-base",
    "Angelakeke/RaTE-NER-Deberta": "rate-ner",
    "FremyCompany/BioLORD-2023-C": "biolord",
}
"""Repository -> the folder of `tests.tiny_weights.lay_out` whose files it serves."""
SLAVA = "bluesky333/SLaVA-CXR"


class Store:
    """Things made once for all pages; `cli` types a command in the folder of the page that asked first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, Path] = {}
        self.hub: Hub | None = None
        self.session: Session | None = None

    def __call__(self, name: str, make: object) -> Path:
        """The folder `name`, made by make(folder) when it is asked for first."""
        if name not in self._made:
            make(self.folder / name)  # type: ignore[operator]
            self._made[name] = self.folder / name
        return self._made[name]

    def program(self, folder: Path, *words: str) -> tuple[int, str, str]:
        """A command in a child process that takes a server of this machine for the hub."""
        if self.session is None:
            self.hub = Hub()
            self.hub.repositories = served(self)
            self.session = Session(self.hub.url, self.folder / "hf")
        return self.session(folder, *words, answer="y\n")

    def stop(self) -> None:
        if self.session is not None and self.hub is not None:
            self.session.stop()
            self.hub.stop()


def files(folder: Path) -> dict[str, bytes]:
    """Path below the folder -> content."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }


def served(store: Store) -> dict[str, dict[str, dict[str, bytes]]]:
    """What the hub of the tests has: tiny weights of every metric, a small SLaVA-CXR."""
    from tests import released

    weights = store("weights", weights_of_metrics)
    scorers = {
        "chexbert.pth": (weights / "chexbert/chexbert.pth").read_bytes(),
        "radgraph.tar.gz": tar_gz(files(weights / "radgraph")),
    }
    made = {name: {FIRST: files(weights / folder)} for name, folder in ASSETS.items()}
    slava = store("slava-hub", released.slava) / "model"
    return {"StanfordAIMI/RRG_scorers": {FIRST: scorers}, SLAVA: {FIRST: files(slava)}, **made}


def weights_of_metrics(folder: Path) -> None:
    from tests.tiny_weights import lay_out

    lay_out(folder)


# Data


def mimic(world) -> None:
    """MIMIC-CXR under the names of the README: an archive of reports, images, tables."""
    from tests.data import mimic_tree as tree

    items = tree.cases()
    tree.write_zip(world.folder / "mimic-cxr-reports.zip", items)
    tree.write_images(world.folder, items)
    tree.write_tables(world.folder / "mimic-cxr-jpg", items)


def physionet(world) -> None:
    """MIMIC-CXR as wget leaves it."""
    from tests.data import mimic_tree as tree

    root, items = world.folder / "data/physionet.org/files", tree.cases()
    tree.write_reports(root / "mimic-cxr/2.1.0", items)
    tree.write_images(root / "mimic-cxr-jpg/2.1.0", items)
    tree.write_tables(root / "mimic-cxr-jpg/2.1.0", items)


def mimic_known(world) -> None:
    mimic(world)
    given = ("--reports", "mimic-cxr-reports.zip", "--images", "files", "--tables", "mimic-cxr-jpg")
    world.must("data", "add", "mimic-cxr", *given)


def chexpert_plus(world) -> None:
    """CheXpert Plus as its page has it."""
    from tests.data import chexpert_plus_tree

    chexpert_plus_tree.write(world.folder / "data/chexpert-plus")


def iu(world) -> None:
    """IU X-Ray under the names of its page."""
    from tests.data import iu_xray_tree as tree

    tree.openi_archive(world.folder)
    tree.kaggle(world.folder)
    tree.r2gen(world.folder)
    tree.images(world.folder / "NLMCXR_png", "kaggle")


def iu_known(world) -> None:
    iu(world)
    given = ("--reports", "NLMCXR_reports.tgz", "--images", "NLMCXR_png", "--tables", "indiana_projections.csv")
    world.must("data", "add", "iu-xray", *given, "--annotations", "annotation.json")


def iu_predictions(world) -> None:
    """Somebody's texts for the one test study."""
    iu_known(world)
    (world.folder / "predictions.csv").write_text("sample_id,prediction\nCXR1_1_IM-0001,The lungs are clear.\n")
    (world.folder / "pairs.csv").write_text(PAIRS)


def own_studies(world) -> None:
    """studies.jsonl and its images; the task a reader makes of custom-findings."""
    from PIL import Image

    images = world.folder / "data/images"
    images.mkdir(parents=True)
    rows = []
    for number in range(4):
        Image.new("L", (16, 16), 40 * number).save(images / f"{number}.png")
        rows.append({"study_id": f"s{number}", "patient_id": f"p{number}", "split": "test",
                     "sections": {"findings": "Invented."},
                     "images": [{"path": f"{number}.png", "view": "PA"}]})  # fmt: skip
    (world.folder / "studies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def vqa_rad(world) -> None:
    from PIL import Image

    from tests.data.test_questions import rad

    images = world.folder / "VQA_RAD Image Folder"
    images.mkdir()
    rows = [*(rad(number) for number in range(6)), rad(9, phrase_type="freeform")]
    for row in rows:
        Image.new("L", (16, 16), 90).save(images / row["image_name"])
    (world.folder / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))


# Weights and packages of metrics


def fetched(world) -> None:
    """CheXbert and RadGraph, fetched; a folder to carry them in."""
    code, out, err = world.store.program(world.folder, "assets", "fetch", "chexbert", "radgraph", "--accept-licence")
    assert code == 0, out + err
    (world.folder / "carry").mkdir()


def weights(world) -> None:
    """The weights of every metric, where fetched assets lie."""
    made = world.store("weights", weights_of_metrics)
    shutil.copytree(made, world.folder / "cache/cxrbench/assets", dirs_exist_ok=True)


def oracle(world) -> None:
    """The weights, radgraph-xl among them, and ~/oracle: an interpreter that answers as packages would, always 0."""
    weights(world)
    assets = world.folder / "cache/cxrbench/assets"
    for name, other in (("radgraph", "radgraph-xl"), ("pubmedbert", "cxr-bert")):
        shutil.copytree(assets / name, assets / other)
    python = world.folder / "oracle/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!{sys.executable} -S\n{PACKAGE}")
    python.chmod(0o755)
    world.words |= {"~/oracle": str(python), "--python ENV": f"--python {python}"}
    (world.folder / "predictions.csv").write_text(PAIRS)


PAIRS = "sample_id,prediction,reference\na,Mild edema.,Mild pulmonary edema.\nb,Clear lungs.,The lungs are clear.\n"
PACKAGE = """\
import json

job = json.load(open("job.json"))
found = {"python": "3.11", "versions": {}, "absent": True, "predictions": [], "references": []}
if job["task"] != "texts":
    none = [0.0] * len(job["predictions"])
    said = {"chexbert": [0] * 14, "bertscore": None}[job["task"]]
    found["texts"] = [said] * len(job["texts"]) if said else []
    values = {"bertscore": ("precision", "recall", "f1")}.get(job["task"], ())
    found["pairs"] = {job["key"]: {name: none for name in values}} if values else {}
json.dump(found, open("result.json", "w"))
"""
"""Says that nothing is in any text, and that no two are alike: whatever is held against it differs."""


# Runs and files made of runs


def runs(world) -> None:
    """Two finished runs of demo-findings in full: what RUN stands for, and the folders whose names end in a hash."""

    def make(folder: Path) -> None:
        for model in ("random-report", "always-normal"):
            words = ("run", "--model", model, "--task", "demo-findings", *FEW)
            world.must(*words, "--out", folder / model)

    made = world.store("runs", make)
    for name in ("random-report", "always-normal"):
        shutil.copytree(made / name, world.folder / "made" / name)


def annotated_run(world) -> None:
    """A short run with annotations in the feature store."""
    words = ("run", "--model", "always-normal", "--task", "demo-findings", "--limit", 2, "--metrics", "chexbert-f1")
    world.must(*words, *FEW)


def demo_folders(world) -> None:
    """runs/demo-findings as it looks after the first commands of the README."""
    runs(world)
    for name, source in (("demo-1a2b3c4d", "always-normal"), ("demo-regressed-5e6f7a8b", "random-report")):
        shutil.copytree(world.folder / "made" / source, world.folder / "runs/demo-findings" / name)


def mimic_run(world) -> None:
    """RUN is one of MIMIC-CXR: weights that are not embedded score it."""
    mimic_known(world)
    words = ("run", "--model", "always-normal", "--task", "mimic-findings", "--allow-partial", "--metrics", "length")
    world.must(*words, *FEW, "--out", "made/random-report")


def robustness_run(world) -> None:
    """RUN RUN have variants."""
    for model in ("random-report", "always-normal"):
        words = ("run", "--model", model, "--task", "demo-robustness", "--metrics", "length,rouge-l:raw")
        world.must(*words, *FEW, "--out", f"made/{model}")


def suite(world) -> None:
    """The page's suite.yaml, and four runs of the names it has."""
    runs(world)
    body = block("compare.md", "name: after preference tuning")
    (world.folder / "suite.yaml").write_text(body.replace("chexbert-f1:miura micro_f1_14", "bleu:raw bleu_4"))
    for task in ("findings", "impression"):
        for name, model in (("before", "random-report"), ("after", "always-normal")):
            words = ("run", "--model", model, "--task", f"demo-{task}", "--metrics", "rouge-l:raw,bleu:raw", *FEW)
            world.must(*words, "--limit", 40, "--out", f"runs/mimic-{task}/{name}-1")


def board(world) -> None:
    """The page's my-board.yaml with its runs, and somebody's predictions."""
    demo_folders(world)
    (world.folder / "my-board.yaml").write_text(block("leaderboard.md", "name: ours"))
    # Other runs than those of the folder: a run that is named twice is refused.
    for seed, out in ((7, "runs/x/demo-1a2b3c4d"), (8, "made/july")):
        other = ("run", "--model", "random-report", "--seed", seed, "--task", "demo-findings", *FEW)
        world.must(*other, "--out", out)
    (world.folder / "summaries").mkdir()
    few = ("--replicates", 100)
    world.must("leaderboard", "summarize", "made/july", "-o", "summaries/july.json", *few)
    world.must("export", "rexrank", "made/always-normal", "-o", "sent.json")
    world.must("import", "rexrank", "sent.json", "-o", "theirs.jsonl")


def recorded_speed(world) -> None:
    """slava-6x.json: the recorded experiment that travels along, under the name of the page's."""
    shutil.copyfile(ROOT / "baselines/throughput/small-cpu.json", world.folder / "slava-6x.json")


def rater(world) -> None:
    """The export of a reader for the form that `create` has just written: every report rated the same."""
    from itertools import combinations

    from cxrbench.report.reader_study_terms import SCALES

    key = json.loads((world.folder / "form.html.key.json").read_text())
    items = {}
    for name, item in key["items"].items():
        pairs = {f"{a}-{b}": "equal" for a, b in combinations(range(len(item["order"])), 2)}
        rated = [] if item["repeats"] is not None else [dict.fromkeys(SCALES, 3) for _ in item["order"]]
        items[name] = {"ratings": rated, "errors": [{} for _ in rated], "preferences": pairs, "done": True}
    body = {"what": "cxrbench reader study responses", "format": 1, "study": key["study"], "reader": "A",
            "items": items}  # fmt: skip
    (world.folder / "answers-a.json").write_text(json.dumps(body))


# Texts


def pairs(world) -> None:
    """predictions.csv with references, and a metric of the package evaluate."""
    for name in ("predictions.csv", "pairs.csv"):
        (world.folder / name).write_text(PAIRS)
    (world.folder / "my_metric.py").write_text(OWN_METRIC)


OWN_METRIC = '''\
"""Share of predictions that are their reference."""
import datasets
import evaluate


class Same(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        same = [said == meant for said, meant in zip(predictions, references)]
        return {"accuracy": sum(same) / len(same)}
'''


def ratings(world) -> None:
    """The ratings of three studies in their layouts, and a table of one's own; the page's rubric."""
    from cxrbench.judge_study_data import REXVAL_ERRORS, REXVAL_REPORTS
    from tests.judges import test_judge_study as made

    runs(world)
    (world.folder / "devices.yaml").write_text(block("judges.md", "name: devices"))
    (world.folder / "CRIMSON").mkdir()
    made.write_radpref(world.folder / "CRIMSON/RadPref", made.radpref_items())
    rexval, radevalx = world.folder / "REXVAL_FOLDER", world.folder / "RADEVALX_FOLDER"
    rexval.mkdir()
    made.write_csv(rexval / REXVAL_REPORTS, ["study_id", "gt_report", "radgraph", "bleu"],
                   [["s0", "clear", "clear", "an effusion"], ["s1", "edema", "no edema", "edema"]])  # fmt: skip
    marks = [[name, kind, 1, "True", 0, name + (kind == "bleu")] for name in (0, 1) for kind in ("radgraph", "bleu")]
    heads = ["study_number", "candidate_type", "error_category", "clinically_significant", "rater_index", "num_errors"]
    made.write_csv(rexval / REXVAL_ERRORS, heads, marks)
    radevalx.mkdir()
    made.write_radevalx(radevalx, {"significant": [["1"] * 8, ["0"] * 8], "insignificant": [[""] * 8, ["2"] * 8]})
    rows = [["1", "clear", "clear lungs", 0], ["1", "edema", "clear lungs", 2], ["2", "a nodule", "a nodule", 0]]
    made.write_csv(world.folder / "own.csv", ["case", "candidate", "reference", "errors:all"], rows)


def judge(heard) -> object:
    """A judge's answer in the form its prompt asks for."""
    asked = json.dumps(heard.asked["messages"])
    if "Candidate A" in asked:
        return answer('{"better": "A"}')
    if "devices" in asked:
        return answer('{"named": 1, "missed": 1}')
    return answer(green_answer(matched=1) if "Matched Findings" in asked else chexprompt_answer())


def server() -> ChatServer:
    """The OpenAI-compatible server of the pages: a judge for judges; what it says as a model means nothing."""
    return ChatServer(judge)


def block(page: str, begins: str) -> str:
    """The block of a page that begins with these words, its indentation taken away."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.strip().startswith(begins)]
    indent = len(lines[at]) - len(lines[at].lstrip())
    found = []
    for line in lines[at:]:
        if line.strip().startswith(("```", "cxrbench ")) or (line.strip() and len(line) - len(line.lstrip()) < indent):
            break
        found.append(line[indent:])
    return "\n".join(found) + "\n"


def own_task(world) -> None:
    (world.folder / "my-findings.yaml").write_text(block("add-a-task.md", "name: my-findings"))


def demo_folder(world) -> None:
    """$DEMO, by the page's own line."""
    made = re.search(r"DEMO=\$\((python .*)\)", (ROOT / "docs/demo.md").read_text())[1].removeprefix("python ")
    place = subprocess.run([sys.executable, *shlex.split(made)], capture_output=True, text=True)
    world.words["$DEMO"] = place.stdout.strip()
