"""Engine `openai` and the model `openai:NAME`: what is sent, what becomes of a sample, what is refused."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image as Picture

from cxrbench.data.images import ImageFailure
from cxrbench.engines.base import join
from cxrbench.engines.build import make_model
from cxrbench.engines.openai import OpenAIEngine, data_url
from cxrbench.errors import CxrbenchError
from cxrbench.models.base import ModelOptions
from cxrbench.models.instruction import PROMPTS
from cxrbench.models.openai import OpenAI
from cxrbench.types import Generation, Image, Sample
from tests.chat_server import TEXT, ChatServer, answer, completion, garbage, status

GREY = np.random.default_rng(0).integers(0, 256, (61, 47), dtype=np.uint8)
QUICK = {"retries": "0", "backoff": "0"}


def read(path):
    if path == "broken.png":
        raise ImageFailure("broken_image", "broken.png is not an image")
    return GREY


def model(url, engine="openai", name="openai", **changes):
    extra = {"url": url, **QUICK, **changes.pop("extra", {})}
    options = {"argument": "gpt-x", "read_image": read, "access": "open", **changes}
    return make_model(name, ModelOptions(extra=extra, **options), engine)


@pytest.fixture
def server():
    with ChatServer() as made:
        yield made


def sample(number=0, **changes):
    images = (Image("a", "a.png", "LATERAL"), Image("b", "b.png", "PA"))
    known = {"images": images, "key_image": "b", "sections": {"indication": "cough"}}
    return Sample(f"s{number}", f"s{number}", None, "", **(known | changes))


def answers(made, *samples, generation=None, seed=0):
    requests = [made.request(each, "generate", generation or Generation(), seed) for each in samples]
    prepared = [made.prepare(request) for request in requests]
    assert [each.failure for each in prepared] == [None] * len(prepared)
    try:
        return made.generate(3, prepared)
    finally:
        made.close()


def pixels(url):
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    picture = Picture.open(io.BytesIO(base64.b64decode(data)))
    assert picture.mode == "L"
    return np.asarray(picture)


# What is sent


def test_the_images_then_the_instruction(server):
    found = answers(model(server.url), sample())
    (body,) = server.bodies()
    assert body == {
        "model": "gpt-x",
        "messages": body["messages"],
        "max_tokens": 300,
        "temperature": 0,
    }
    ((image, text),) = [message["content"] for message in body["messages"]]
    assert body["messages"][0]["role"] == "user"
    assert np.array_equal(pixels(image["image_url"]["url"]), GREY)
    assert text == {"type": "text", "text": f"{PROMPTS['findings']}\nIndication: cough"}
    (row,) = found.predictions
    assert (row.outcome, row.text, row.finish_reason) == ("ok", TEXT, "stop")
    assert row.inputs == ("image:PA", "section:indication")
    assert (row.prompt_tokens, row.output_tokens, row.served) == (12, 5, "served-model fp_1")
    assert set(row.times) == {"image_read", "preprocess", "wait", "server", "latency"}
    assert row.times["latency"] >= row.times["server"] > 0
    assert (found.timing.batch, found.timing.size) == (3, 1)


def test_all_images_in_order_and_text_alone_as_text(server):
    answers(model(server.url, extra={"images": "all"}), sample())
    answers(model(server.url), sample(images=(), key_image=None))
    both, alone = server.bodies()
    assert [part["type"] for part in both["messages"][0]["content"]] == ["image_url", "image_url", "text"]
    assert alone["messages"][0]["content"].startswith("Write the findings section of the radiology report.")


def test_a_marker_in_a_section_is_no_image(server):
    answers(model(server.url), sample(sections={"indication": "<image> cough"}))
    content = server.bodies()[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]


def test_sampling_settings_and_a_seed_that_every_parser_holds(server):
    made = model(server.url, generation={"temperature": 0.7, "top_p": 0.9})
    answers(made, sample(), generation=Generation(max_new_tokens=50, temperature=0.7, top_p=0.9), seed=2**62 + 5)
    body = server.bodies()[0]
    assert {key: body[key] for key in ("temperature", "top_p", "seed", "max_tokens")} == {
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 5,
        "max_tokens": 50,
    }


def test_other_names_and_smaller_images(server):
    extra = {"served": "other", "limit_key": "max_completion_tokens", "max_side": "30"}
    answers(model(server.url, extra=extra), sample())
    body = server.bodies()[0]
    assert body["model"] == "other"
    assert body["max_completion_tokens"] == 300
    assert "max_tokens" not in body
    assert pixels(body["messages"][0]["content"][0]["image_url"]["url"]).shape == (30, 23)


def test_a_data_url_loses_nothing():
    for shape in ((1, 1), (7, 300), (300, 7)):
        grey = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        assert np.array_equal(pixels(data_url(grey)), grey)
        assert max(pixels(data_url(grey, 8)).shape) <= 8


def test_a_key_is_sent_and_written_nowhere(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-hidden")
    made = model(server.url, extra={"key_env": "MY_KEY"})
    answers(made, sample())
    assert server.heard[0].headers["authorization"] == "Bearer sk-hidden"
    kept = [made.identity(), made.circumstances(), made.card, made.engine.server_settings]
    made.close()
    assert "sk-hidden" not in repr(kept)


def test_the_reference_preset_is_what_others_measured_gpt_4v_with(server):
    made = model(server.url, preset="reference")
    assert made.generation["max_new_tokens"] == 512
    assert made.preset.source == "third-party"


def test_a_checkpoint_folder_behind_a_server(server, tmp_path):
    pytest.importorskip("torch")
    from tests.tiny_llava import make

    folder = make(tmp_path / "tiny")
    made = make_model(
        "hf",
        ModelOptions(argument=str(folder), extra={"url": server.url, "served": "tiny"}, read_image=read, access="open"),
        "openai",
    )
    assert made.kinds == {"generate"}
    answers(made, sample())
    body = server.bodies()[0]
    assert body["model"] == "tiny"
    assert body["messages"][0]["content"][1]["text"].startswith(PROMPTS["findings"])


# What identifies it


def test_identity_and_circumstances():
    listed = status(200, b'{"data": [{"id": "gpt-x"}]}')
    with ChatServer(models=listed) as server:
        made = model(server.url)
        identity, known = made.identity(), made.circumstances()
        made.close()
    assert identity["engine"] == "openai"
    assert identity["endpoint"] == server.url
    assert identity["served"] == "gpt-x"
    assert identity["name"] == "openai:gpt-x"
    assert identity["prompt"] == PROMPTS["findings"]
    assert known["listed"] is True
    assert known["agreement"] is None
    assert made.independent
    assert made.remote


def test_the_agreement_that_allows_a_host_is_known():
    made = model("https://gpu.example/v1", access="credentialed", trusted_endpoints={"gpu.example": "contract 8"})
    assert made.engine.server_settings.endpoint.agreement == "contract 8"


def test_models_without_weights_run_on_this_engine_by_default(server):
    assert model(server.url, engine=None).engine.name == "openai"


# What becomes of a sample


def test_samples_end_each_in_their_own_way():
    said = {
        "0": answer(),
        "1": answer(" \n"),
        "2": garbage(json.dumps(completion(choices=[])).encode()),
        "3": answer(choices=[{"message": {"content": "cut off"}, "finish_reason": "length"}]),
        "4": answer(choices=[{"message": {"content": "no"}, "finish_reason": "content_filter"}]),
        "5": status(400, b'{"error": {"code": "context_length_exceeded"}}'),
        "6": status(400),
        "7": status(500),
    }
    with ChatServer(lambda heard: said[heard.asked["messages"][0]["content"][1]["text"][-1]]) as server:
        found = answers(model(server.url), *(sample(n, sections={"indication": f"{n}"}) for n in range(8)))
    rows = found.predictions
    assert [row.sample_id for row in rows] == [f"s{n}" for n in range(8)]
    assert [row.outcome for row in rows] == [
        "ok", "empty", "no_answer", "ok", "refused", "prompt_too_long", "engine_error", "no_answer",
    ]  # fmt: skip
    assert [row.finish_reason for row in rows] == [
        "stop",
        "stop",
        "error",
        "length",
        "error",
        "error",
        "error",
        "error",
    ]
    assert [row.text for row in rows] == [TEXT, "", None, "cut off", None, None, None, None]
    assert rows[7].detail == "HTTP 500"


def test_images_that_cannot_be_read_and_samples_without_anything(server):
    made = model(server.url)
    bad = made.prepare(
        made.request(sample(images=(Image("a", "broken.png"),), key_image="a"), "generate", Generation(), 0)
    )
    assert bad.failure == ("broken_image", "broken.png is not an image")
    bare = made.prepare(made.request(sample(images=(), key_image=None, sections={}), "generate", Generation(), 0))
    assert bare.failure[0] == "no_input"


def test_an_unknown_model_ends_the_run_before_anything_is_written():
    with ChatServer(lambda _: status(404, b'{"error": {"code": "model_not_found"}}')) as server:
        with pytest.raises(CxrbenchError, match="no model of this name"):
            answers(model(server.url), sample(0), sample(1))
        assert len(server.heard) <= 2


def test_what_was_answered_before_the_end_is_kept_and_the_next_batch_says_why():
    with ChatServer() as server:
        made = model(server.url, extra={"max_requests": "3", "concurrency": "1"})
        requests = [made.request(sample(n), "generate", Generation(), 0) for n in range(4)]
        prepared = [made.prepare(request) for request in requests]
        rows = made.generate(0, prepared).predictions
        assert [row.outcome for row in rows] == ["ok", "ok", "ok", "no_answer"]
        assert "budget of 3 requests" in rows[3].detail
        with pytest.raises(CxrbenchError, match="budget of 3 requests"):
            made.generate(1, prepared)
        made.close()


# What is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extra": {"concurrency": "0"}}, "concurrency must be a whole number from 1"),
        ({"extra": {"concurrency": "２"}}, "concurrency must be a whole number from 1"),
        ({"extra": {"timeout": "nan"}}, "timeout must be a positive number"),
        ({"extra": {"retries": "-1"}}, "retries must be a whole number from 0"),
        ({"extra": {"backoff": "x"}}, "backoff must be a positive number"),
        ({"extra": {"max_cost": "5"}}, "needs the price"),
        ({"extra": {"limit_key": "max_length"}}, "no name of a length cap"),
        ({"extra": {"key_env": "NOT_SET_ANYWHERE"}}, "NOT_SET_ANYWHERE is not set"),
        ({"extra": {"urls": "x"}}, "did you mean 'url'"),
        ({"argument": ""}, "needs the name its server knows"),
        ({"argument": "a\nb"}, "needs the name its server knows"),
        ({"dtype": "bf16"}, "--dtype is the server's to choose"),
        ({"device": "cuda"}, "--device is the server's to choose"),
        ({"load_format": "dummy"}, "no weights here"),
        ({"generation": {"num_beams": 3}}, "cannot be told num_beams=3"),
        ({"generation": {"repetition_penalty": 1.1}}, "cannot be told repetition_penalty=1.1"),
        ({"generation": {"temperature": 1.0, "top_k": 5}}, "cannot be told top_k=5"),
        ({"access": "credentialed", "url": "https://api.example/v1"}, "may not be sent to api.example"),
    ],
)
def test_settings_that_cannot_work(changes, said):
    changes = dict(changes)
    with pytest.raises(CxrbenchError, match=said):
        model(changes.pop("url", "http://127.0.0.1:1/v1"), **changes)


def test_a_task_that_wants_beams_is_refused_when_its_first_sample_comes(server):
    made = model(server.url)
    with pytest.raises(CxrbenchError, match="num_beams=4"):
        made.prepare(made.request(sample(), "generate", Generation(num_beams=4), 0))


def test_without_a_url():
    with pytest.raises(CxrbenchError, match="needs the URL of a server") as error:
        join(OpenAI, OpenAIEngine, ModelOptions(argument="m"))
    assert "--set url=http://127.0.0.1:8000/v1" in error.value.fix


def test_options_are_not_scored(server):
    made = model(server.url)
    with pytest.raises(CxrbenchError, match="the model does not do it"):
        made.request(sample(), "score_options", Generation(), 0)
    assert "log-prob" in OpenAIEngine.refuses["score_options"]


def test_a_model_behind_a_server_runs_on_no_other_engine():
    with pytest.raises(CxrbenchError, match="needs a model's network"):
        make_model("openai", ModelOptions(argument="m"), "transformers")
