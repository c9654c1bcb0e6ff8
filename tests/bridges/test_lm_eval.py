"""lm-eval 0.4.13 itself, both ways: our models and tasks in it, its models in our runs, its logs as predictions."""

import json
import signal
import stat
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import pytest

from cxrbench.errors import CxrbenchError
from tests.commands import cli  # noqa: F401  (a fixture)
from tests.small_task import write_small

pytest.importorskip("lm_eval")
torch = pytest.importorskip("torch")

# What lm-eval and the packages it brings say about themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def summary_of(folder):
    (file,) = folder.glob("runs/*/*/summary.json")
    return json.loads(file.read_text())


def evaluate(task, model, arguments, **options):
    """`simple_evaluate` on the inline task, with our models registered as the launcher does it."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from cxrbench.bridges.lm_eval_export import register

    register()
    options |= {"task_manager": TaskManager(include_defaults=False)}  # its own thousands of tasks take seconds to index
    return simple_evaluate(
        model=model, model_args=arguments, tasks=[task.config()], bootstrap_iters=0, batch_size=1, **options
    )


def same_numbers(view, found, summary):
    """Every number of the task by lm-eval and by `cxrbench run`, to 1e-9."""
    results = found["results"][view.name]
    assert view.numbers()
    for number in view.numbers():
        key, name = number.split("/")
        ours = summary["metrics"][key][name]["value"]
        assert results[f"{number},cxrbench"] == pytest.approx(ours, abs=1e-9), number
    return results


def test_our_model_in_lm_eval_gives_the_numbers_of_a_run(cli, tmp_path):
    from cxrbench.bridges.lm_eval_task import TaskView

    task = write_small(tmp_path, test=12, extra="generation: {max_new_tokens: 160}\n")
    code, _, err = cli("run", "--model", "demo", "--task", task, "--dtype", "fp32", "--replicates", 0)
    assert code == 0, err
    view = TaskView.find(str(task), values="all")
    found = evaluate(view, "cxrbench", "model=demo,dtype=fp32,out=kept", log_samples=True)
    results = same_numbers(view, found, summary_of(tmp_path))
    assert results["scored,cxrbench"] == 12
    ours = {
        row["sample_id"]: row["text"]
        for row in map(json.loads, next(tmp_path.glob("runs/*/*/predictions/0000.jsonl")).read_text().splitlines())
    }
    theirs = {row["doc"]["sample_id"]: row["resps"][0][0] for row in found["samples"][view.name]}
    assert theirs == ours
    # The run folder of `out` is a run like any other, and holds every answer.
    assert cli("score", "kept", "--metrics", "bleu:raw", "--replicates", 0)[0] == 0


def test_lm_evals_model_in_a_run_and_in_lm_eval_and_ours_agree(cli, tmp_path):
    from cxrbench.bridges.lm_eval_task import TaskView
    from tests.tiny_llava import make

    folder = make(tmp_path / "tiny")
    task = write_small(tmp_path, test=6, extra="generation: {max_new_tokens: 12}\n")
    arguments = f"pretrained={folder},dtype=float32,device=cpu"
    code, out, err = cli("run", "--model", f"lm-eval:hf-multimodal,{arguments}", "--task", task, "--replicates", 0)
    assert code == 0, err
    assert "scored 6 of 6" in out
    summary = summary_of(tmp_path)
    code, _, err = cli(
        "run", "--model", f"hf:{folder}", "--task", task, "--dtype", "fp32", "--replicates", 0, "--out", "ours"
    )
    assert code == 0, err
    (run,) = tmp_path.glob("runs/*/*")
    theirs, ours = (
        {row["sample_id"]: row for row in map(json.loads, (each / "predictions/0000.jsonl").read_text().splitlines())}
        for each in (run, tmp_path / "ours")
    )
    assert {key: row["text"] for key, row in theirs.items()} == {key: row["text"] for key, row in ours.items()}
    assert {key: row["prompt_tokens"] for key, row in theirs.items()} == {
        key: row["prompt_tokens"] for key, row in ours.items()
    }
    assert {row["finish_reason"] for row in theirs.values()} == {"none"}
    view = TaskView.find(str(task))
    found = evaluate(view, "hf-multimodal", arguments, apply_chat_template=True, log_samples=False)
    same_numbers(view, found, summary)


@pytest.fixture
def no_other_tasks(monkeypatch):
    """lm-eval does not index its own tasks, which takes seconds: those of --include_path and ours are left."""
    from lm_eval.tasks import TaskManager

    real = TaskManager.__init__

    def without(self, *given, **options):
        real(self, *given, **{**options, "include_defaults": False})

    monkeypatch.setattr(TaskManager, "__init__", without)


def test_the_launcher_runs_an_exported_task_and_its_log_comes_back(cli, no_other_tasks, tmp_path):
    task = write_small(tmp_path, test=6)
    code, out, err = cli("export", "lm-eval", "theirs", "--task", task)
    assert code == 0, err
    assert (tmp_path / "theirs/cxrbench_small.yaml").exists()
    words = "run --model cxrbench --model_args model=always-normal --tasks cxrbench_small --include_path theirs"
    code, out, err = cli("lm-eval", *words.split(), "--output_path", "logs", "--log_samples", "--batch_size", 1)
    assert code == 0, err
    assert "bleu:raw/bleu_4" in out
    (log,) = tmp_path.glob("logs/**/samples_*.jsonl")
    code, out, err = cli("import", "lm-eval", log, "-o", "predictions.jsonl")
    assert code == 0, err
    assert "6 predictions" in out
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    replayed = ("run", "--model", "replay:predictions.jsonl", "--task", task, "--replicates", 0)
    assert cli(*replayed, "--out", "again")[0] == 0
    assert cli("run", "--model", "always-normal", "--task", task, "--replicates", 0, "--out", "first")[0] == 0
    again, first = (
        json.loads((tmp_path / name / "summary.json").read_text())["metrics"] for name in ("again", "first")
    )
    assert again == first


def test_a_task_nobody_knows_is_a_wrong_call(cli, no_other_tasks):
    words = "run --model cxrbench --model_args model=always-normal --tasks cxrbench_demo-findngs"
    code, _, err = cli("lm-eval", *words.split())
    assert code == 2
    assert "Tasks not found: cxrbench_demo-findngs (did you mean 'cxrbench_demo-findings'?)" in err


def test_lm_evals_words_are_told_where_they_quote_no_report():
    from lm_eval.api.registry import get_model

    from cxrbench.bridges.lm_eval_export import _not_known, register

    register()
    with pytest.raises(ValueError, match="cxrbnch") as caught:
        get_model("cxrbnch")
    told = _not_known(caught.value)
    assert told.what.endswith("no model for this name found (did you mean 'cxrbench'?)")
    assert _not_known(ValueError("a report's words")) is None


@pytest.mark.parametrize("name", ["hf-multimodal", "vllm-vlm", "hf-multimodal,dtype=float32"])
def test_a_checkpoint_that_is_not_named_is_asked_for(cli, tmp_path, name):
    code, _, err = cli("run", "--model", f"lm-eval:{name}", "--task", write_small(tmp_path, test=3))
    assert code == 2
    assert "needs a checkpoint, and `pretrained` is missing" in err


def request(prompt, pictures, **settings):
    arguments = (prompt, {"until": [], **settings}, {"visual": pictures})
    return SimpleNamespace(args=arguments, doc={}, task_name="theirs", doc_id=0)


def test_a_request_without_its_image_is_an_error():
    from cxrbench.bridges.lm_eval_model import CxrbenchLM

    with pytest.raises(CxrbenchError, match="names 1 images and carries 0"):
        CxrbenchLM(model="demo").generate_until([request("<image>What is seen?", [])])


def test_a_model_with_a_prompt_of_its_own_takes_no_other(tmp_path):
    from PIL import Image

    from cxrbench.bridges.lm_eval_model import CxrbenchLM

    with pytest.raises(CxrbenchError, match="cannot take lm-eval's"):
        CxrbenchLM(model="always-normal").generate_until([request("<image>Why?", [Image.new("L", (32, 32))])])


def test_another_tasks_prompt_is_the_question_and_ends_where_it_says(tmp_path):
    from PIL import Image

    from cxrbench.bridges.lm_eval_model import CxrbenchLM
    from tests.tiny_llava import make

    folder = make(tmp_path / "tiny")
    asked = [request("<image>Is there an effusion?", [Image.new("L", (40, 32), 90)], max_gen_toks=8)]
    model = CxrbenchLM(model=f"hf:{folder}", dtype="fp32", device="cpu")
    (whole,) = model.generate_until(asked)
    assert whole
    asked[0].args[1]["until"] = [whole[3:5]]
    assert model.generate_until(asked) == [whole.split(whole[3:5])[0]]


def test_settings_nobody_here_has_are_named():
    from cxrbench.bridges.lm_eval_model import _generation

    with pytest.raises(CxrbenchError, match="'typical_p' is not a generation setting"):
        _generation(request("x", [], typical_p=0.2))
    assert _generation(request("x", [], max_gen_toks=9, do_sample=False)) == {"max_new_tokens": 9, "temperature": 0.0}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"model": "nosuch"}, "no model called 'nosuch'"), ({"model": "demo", "engine": "slot"}, "did you mean 'slots'")],
)
def test_what_is_not_known_is_refused_before_any_task_is_read(wrong, said):
    from cxrbench.bridges.lm_eval_model import CxrbenchLM

    with pytest.raises(CxrbenchError, match=said):
        CxrbenchLM(**wrong)


def test_failed_samples_are_not_scored_as_empty_reports(tmp_path):
    from cxrbench.bridges.lm_eval_task import FailedAnswer, TaskView

    view = TaskView.find(str(write_small(tmp_path, test=3)))
    documents = list(view.dataset()["test"])
    rows = view.rows([["Clear lungs."], [FailedAnswer("broken_image")], [""]], documents)
    assert [row["bleu:raw"] is not None for row in rows] == [True, False, True]
    scored = [view.process_results(doc, [row])["scored"] for doc, row in zip(documents, rows, strict=True)]
    assert scored == [1.0, 0.0, 1.0]
    with pytest.raises(CxrbenchError, match="where the rows of the filter"):
        view.process_results(documents[0], ["a text"])


def test_pictures_are_read_when_they_are_looked_at(tmp_path):
    from cxrbench.bridges.lazy_image import LazyImage, lazy_image
    from cxrbench.types import Image

    file = tmp_path / "gone.png"
    waiting = lazy_image(Image("1", str(file)))
    assert isinstance(waiting, LazyImage)
    with pytest.raises(CxrbenchError, match="cannot be read"):
        waiting.convert("RGB")
    from PIL import Image as Pillow

    Pillow.new("L", (64, 48), 100).save(file)
    assert lazy_image(Image("1", str(file))).size == (64, 48)
    reduced = lazy_image(Image("1", str(file)), 32)
    assert reduced.convert("RGB").size == (32, 24)
    assert reduced.getpixel((3, 3)) == (100, 100, 100)


def test_credentialed_data_reach_no_server_by_this_way(cli, tmp_path):
    task = write_small(tmp_path, test=3, access="credentialed")
    code, _, err = cli("run", "--model", "lm-eval:openai-chat-completions,model=x", "--task", task)
    assert code == 2
    assert "may send what it is given to a server" in err
    code, _, err = cli("lm-eval", "run", "--tasks", "cxrbench_mimic-findings", "--wandb_args", "project=x")
    assert code == 2
    assert "sent to no service" in err


@pytest.mark.parametrize(
    "words",
    [
        ("--wandb_args=project=x",),
        ("--wandb_a", "project=x"),
        ("--hf_hub_log_args", "hub_results_org=x"),
        ("--config", "sends.yaml"),
        ("-C", "sends.yaml"),
        ("--conf=sends.yaml",),
        ("--cache_requests", "true"),
    ],
)
def test_no_spelling_gets_past_the_guard_of_credentialed_tasks(tmp_path, monkeypatch, words):
    """Whoever asks lm-eval, and whatever the task is called there: what counts is the task about to be read."""
    from cxrbench.bridges.lm_eval_task import TaskView

    monkeypatch.chdir(tmp_path)
    (tmp_path / "sends.yaml").write_text("trackio_args: {project: x}\n")
    closed = TaskView.find(str(write_small(tmp_path, test=2, access="credentialed")))
    monkeypatch.setattr("sys.argv", ["lm_eval", "run", "--tasks", "cxrbench_s*", *words])
    with pytest.raises(CxrbenchError, match="credentialed"):
        closed.dataset()
    monkeypatch.setattr("sys.argv", ["lm_eval", "--tasks=cxrbench_small", "--model_args", "config=a", "--limit=2"])
    assert len(closed.dataset()["test"]) == 2
    monkeypatch.setattr("sys.argv", ["lm_eval", *words])
    assert len(TaskView.find(str(write_small(tmp_path, test=2))).dataset()["test"]) == 2


def test_tasks_are_found_in_every_spelling(tmp_path):
    from cxrbench.bridges.lm_eval_export import _named

    assert _named(["--tasks=cxrbench_demo-findings,mmlu"]) == ["demo-findings"]
    assert _named(["-t", "cxrbench_demo-fi*", "cxrbench_demo-summarize"]) == ["demo-findings", "demo-summarize"]
    assert "demo-retrieval" not in _named(["--tasks", "cxrbench_demo-*"])  # answered with no text
    assert _named(["--tasks", "cxrbench_demo-retrieval"]) == ["demo-retrieval"]  # named: refused with its reason


def test_failed_samples_of_a_log_are_no_empty_reports_and_bad_bytes_are_named(cli, tmp_path):
    rows = [
        {"doc": {"sample_id": "a"}, "resps": [[""]], "filtered_resps": [{"outcome": "broken_image"}]},
        {"doc": {"sample_id": "b"}, "resps": [["Kein Erguß."]], "filtered_resps": [{"bleu:raw": [1.0]}]},
        {"doc": {"sample_id": "c"}, "resps": [[""]], "filtered_resps": [""]},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = cli("import", "lm-eval", "log.jsonl", "-o", "out.jsonl")
    assert code == 0, err
    assert "2 predictions, 1 without an answer left out" in out
    found = [json.loads(line)["sample_id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found == ["b", "c"]
    (tmp_path / "bad.jsonl").write_bytes(b'{"doc": {"sample_id": "a"}, "resps": [["caf\xe9"]]}\n')
    code, _, err = cli("import", "lm-eval", "bad.jsonl", "-o", "out.jsonl")
    assert code == 2
    assert "UTF-8" in err
    (tmp_path / "half.jsonl").write_text('{"doc": {"sample_id": "a"}, "resps": [["\\ud800"]]}\n')
    code, _, err = cli("import", "lm-eval", "half.jsonl", "-o", "out.jsonl")
    assert code == 2
    assert "surrogate" in err


@pytest.mark.parametrize("name", ["hf-multimodal", "hf", "vllm-vlm"])
@pytest.mark.parametrize("key", ["pretrained", "tokenizer", "peft", "delta"])
def test_a_checkpoint_that_is_no_folder_is_never_asked_for(cli, tmp_path, monkeypatch, name, key):
    """A name would be fetched from the hub; who wants that fetches it first, in words of their own."""
    import socket

    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **more: asked.append(words))
    (tmp_path / "here").mkdir()
    there = f"pretrained={tmp_path / 'here'},{key}=some-lab/some-model" if key != "pretrained" else f"{key}=some-lab/x"
    task = write_small(tmp_path, test=3)
    code, _, err = cli("run", "--model", f"lm-eval:{name},{there}", "--task", task)
    assert code == 2
    assert "and a run asks no hub for it" in err
    assert f"{key}=DIR names a folder on this machine" in err
    assert not asked


def test_what_a_folder_names_is_not_asked_for_either(tmp_path, monkeypatch):
    """Its configuration says whose code it needs; that is not fetched, and the hub's setting is as it was."""
    import socket

    from huggingface_hub import constants

    from cxrbench.bridges.lm_eval_as_model import LmEvalModel
    from cxrbench.models.base import ModelOptions

    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **more: asked.append(words))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    elsewhere = {"model_type": "theirs", "auto_map": {"AutoConfig": "some-lab/some-model--theirs.Theirs"}}
    (tmp_path / "config.json").write_text(json.dumps(elsewhere))
    argument = f"hf-multimodal,pretrained={tmp_path},trust_remote_code=True"
    with pytest.raises(CxrbenchError, match="cannot make 'hf-multimodal' from what is on this machine"):
        _ = LmEvalModel(ModelOptions(argument=argument, access="open", device="cpu"))._lm
    assert not asked
    assert constants.HF_HUB_OFFLINE is False


def test_a_text_alone_is_a_failed_sample_of_lm_evals_image_models(tmp_path):
    from cxrbench.bridges.lm_eval_as_model import LmEvalModel
    from cxrbench.models.base import ModelOptions
    from cxrbench.types import Request

    model = LmEvalModel(ModelOptions(argument=f"hf-multimodal,pretrained={tmp_path}", access="open"))
    prepared = model.prepare(Request("s", "generate"))
    assert prepared.failure == ("no_input", "lm-eval's image models take no text alone")


def test_lm_evals_own_default_device_is_no_wish(tmp_path):
    """Its command line says cuda:0 where the user said nothing; `auto` takes that too, where there is one."""
    from cxrbench.bridges.lm_eval_model import CxrbenchLM

    assert CxrbenchLM("demo", device="cuda:0").device_name == "auto"
    assert CxrbenchLM("demo", device="cuda:1").device_name == "cuda:1"
    assert CxrbenchLM("demo").device_name == "auto"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "no sample of lm-eval"),
        ('{"doc": {}, "resps": []}', "no sample of lm-eval"),
        ('{"doc": {"id": 1}, "resps": [["x"]]}', "no key 'sample_id'"),
        ('{"doc": {"sample_id": 1}, "resps": [[[1.0, true]]]}', "the response is no text"),
        ("", "no sample"),
    ],
)
def test_a_log_that_is_none_is_refused(cli, tmp_path, line, said):
    (tmp_path / "log.jsonl").write_text(line)
    code, _, err = cli("import", "lm-eval", "log.jsonl", "-o", "out.jsonl")
    assert code == 2
    assert said in err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_log_with_a_sample_twice_is_refused(cli, tmp_path):
    row = '{"doc": {"sample_id": "a"}, "resps": [["x"]]}\n'
    (tmp_path / "log.jsonl").write_text(row * 2)
    assert "logged twice" in cli("import", "lm-eval", "log.jsonl", "-o", "out.jsonl")[2]


@pytest.mark.slow
def test_a_run_killed_with_kill_9_goes_on_exactly_once(tmp_path, monkeypatch):
    """A real process, killed between two batches or within one; the same command then answers the rest, and no more."""
    from tests.tiny_llava import make

    folder = make(tmp_path / "tiny")
    task = write_small(tmp_path, test=24, extra="generation: {max_new_tokens: 40}\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = f"lm-eval:hf-multimodal,pretrained={folder},dtype=float32,device=cpu"
    words = [sys.executable, "-m", "cxrbench", "run", "--model", model, "--task", str(task), "--batch-size", "2"]
    words += ["--metrics", "bleu:raw", "--replicates", "0", "--out"]

    def rows(run):
        file = tmp_path / run / "predictions/0000.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def told(run):
        return {row["sample_id"]: (row["outcome"], row["text"], row["prompt_tokens"]) for row in rows(run)}

    def ended(run):
        done = subprocess.run([*words, run], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    ended("whole")
    killed = subprocess.Popen([*words, "killed"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while len(rows("killed")) < 8:
            assert killed.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    first = told("killed")
    assert 8 <= len(first) < 24
    ended("killed")
    assert len(rows("killed")) == len(told("killed")) == 24  # each once
    assert told("killed") == told("whole")
    assert {key: told("killed")[key] for key in first} == first
    assert [row["sample_id"] for row in rows("killed")][: len(first)] == list(first)  # kept, not asked again
    one, two = (json.loads((tmp_path / run / "summary.json").read_text())["metrics"] for run in ("killed", "whole"))
    assert one == two


@pytest.mark.slow
def test_the_metric_table_of_lm_eval_has_no_stderr_it_cannot_have(tmp_path):
    """Corpus numbers come without a standard error in lm-eval; intervals are `cxrbench score`'s."""
    from cxrbench.bridges.lm_eval_task import TaskView

    view = TaskView.find(str(write_small(tmp_path, test=3)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = evaluate(view, "cxrbench", "model=always-normal", log_samples=False)
    assert found["results"][view.name]["bleu:raw/bleu_4_stderr,cxrbench"] == "N/A"
