"""The engine against a real server that fails: every pair is scored once or named, nothing is asked twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.features.base import Pairs, Resources
from cxrbench.http_endpoint import open_endpoint
from cxrbench.http_limits import Budget, Policy, Prices
from cxrbench.judges.ask import PENDING, Prompt
from cxrbench.judges.engine import Judge, judge_all
from cxrbench.judges.parsers import parser_of
from cxrbench.judges.rubric import built_in
from cxrbench.judges.server import ServerJudge
from cxrbench.judges.store import FILE, JudgeStore
from cxrbench.metrics.base import FAILED, SCORED, Corpus
from cxrbench.metrics.judged import ChexPrompt
from tests.chat_server import ChatServer, answer, drip, garbage, reset, status, truncated
from tests.judges.answers import candidate_of, chexprompt_answer, marks

FAST = Policy(timeout=60.0, first_delay=0.0, concurrency=16, hopeless=10_000)
FAULTS = (
    lambda: status(429, headers=(("retry-after", "0"),)),
    lambda: status(500),
    lambda: status(503),
    reset,
    lambda: reset(after=60),
    truncated,
    garbage,
)


def pairs(n):
    return Pairs([f"s{i}" for i in range(n)], [f"sample {i} shows an effusion" for i in range(n)], ["no effusion"] * n)


def right(number):
    """The counts a sample of this number has."""
    return chexprompt_answer((number % 5, 0, 0, 0, 0, 0), (0, number % 3, 0, 0, 0, 0))


def right_answer(heard):
    return answer(right(marks(candidate_of(heard.asked))))


class Faulty:
    """Fails 30 % of attempts in every way, the named ones by slowness, and answers some with no JSON at all."""

    def __init__(self, seed, unreadable=0.0, slow=()):
        self.draw = random.Random(seed)
        self.unreadable = unreadable
        self.slow = slow
        self.good = Counter()

    def __call__(self, heard):
        roll = self.draw.random()
        if heard.number in self.slow:
            return drip()
        if roll < 0.3:
            return self.draw.choice(FAULTS)()
        if roll < 0.3 + self.unreadable:
            return answer("I would rather not count.")
        number = marks(candidate_of(heard.asked))
        self.good[number] += 1
        return answer(right(number))


def judge(server, folder, policy=FAST, repeats=1, **further):
    asker = ServerJudge("m", open_endpoint(server.url, "credentialed", {}), policy, structured="no", **further)
    return Judge(asker, repeats, folder=folder)


def score(made, given):
    metric = ChexPrompt()
    context = metric.fit(Corpus(given.references, judge=made))
    (request,) = metric.needs(context)
    from cxrbench.judges.feature import PairVerdicts

    features = {request: PairVerdicts().extract(given, dict(request.settings), Resources(judge=made))}
    return metric.statistics(given, features, context)


def check_whole(statistics, n):
    """Every pair is scored with its own counts, or failed with a reason and without a number."""
    assert len(statistics.rows) == len(statistics.status) == len(statistics.reasons) == n
    for i in range(n):
        if statistics.status[i, 0] == SCORED:
            assert tuple(statistics.rows[i, 0, :4]) == (1, i % 5 + i % 3, i % 5, i % 3)
            assert not statistics.reasons[i]
        else:
            assert statistics.status[i, 0] == FAILED
            assert statistics.reasons[i]
            assert not statistics.rows[i].any()


def storm(tmp_path, n, seed):
    """Score n pairs against a faulty server until nothing is left; each command asks only for what failed."""
    behave = Faulty(seed, unreadable=0.02, slow=(10, 60))
    with ChatServer(behave) as server:
        failed = []
        for _ in range(20):
            made = judge(
                server, tmp_path, Policy(timeout=4.0, first_delay=0.0, concurrency=16, retries=1, hopeless=10**6)
            )
            before = len(server.heard)
            statistics = score(made, pairs(n))
            check_whole(statistics, n)
            failed.append(int((statistics.status == FAILED).sum()))
            assert len(server.heard) - before <= 2 * (failed[-2] if len(failed) > 1 else n)
            if not failed[-1]:
                break
        asked = len(server.heard)
        again = judge(server, tmp_path)
        assert (score(again, pairs(n)).rows == statistics.rows).all()
        assert len(server.heard) == asked
    assert failed[0] > 0
    assert failed[-1] == 0
    # A good answer reaches the client whole, so no pair is answered twice.
    assert behave.good == Counter(dict.fromkeys(range(n), 1))
    usage = next(iter(again.usage.values()))
    assert (usage.used, usage.asked) == (n, 0)


def test_what_a_model_thinks_aloud_is_no_answer(tmp_path):
    def behave(heard):
        draft = chexprompt_answer((9, 9, 9, 9, 9, 9))
        return answer(f"<think>\nSay {draft}? No.\n</think>\n{right(marks(candidate_of(heard.asked)))}")

    with ChatServer(behave) as server:
        check_whole(statistics := score(judge(server, tmp_path), pairs(5)), 5)
    assert not statistics.status.any()


def test_an_answer_of_any_numbers_never_ends_the_command(tmp_path):
    with ChatServer(lambda heard: answer(chexprompt_answer((float("inf"), 0, 0, 0, 0, 0)))) as server:
        statistics = score(judge(server, tmp_path), pairs(2))
    assert (statistics.status == FAILED).all()
    assert statistics.reasons[0] == "unreadable: false_positive_finding is not a count"


def test_a_server_that_fails_a_third_of_the_time_loses_no_pair_and_none_is_answered_twice(tmp_path):
    storm(tmp_path, 300, 1)


@pytest.mark.slow
def test_a_thousand_pairs(tmp_path):
    storm(tmp_path, 1000, 2)


PROGRAM = """
import sys
from pathlib import Path
from tests.judges.test_engine import judge, pairs, score
from types import SimpleNamespace
from cxrbench.http_limits import Policy
policy = Policy(first_delay=0.0, concurrency=4)
score(judge(SimpleNamespace(url=sys.argv[1]), Path(sys.argv[2]), policy), pairs(int(sys.argv[3])))
"""


def kill_midway(tmp_path, n, at):
    """Kill -9 a scoring process once the server has heard `at` requests; returns what was stored then."""
    root = Path(__file__).resolve().parents[2]
    behave = Faulty(3)
    with ChatServer(behave) as server:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, server.url, str(tmp_path), str(n)], cwd=root)
        deadline = time.monotonic() + 60
        while len(server.heard) < at and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with sqlite3.connect(tmp_path / FILE) as base:
            stored = base.execute("SELECT count(*) FROM answer").fetchone()[0]
        base.close()
        before = dict(behave.good)
        patient = Policy(first_delay=0.0, concurrency=16, retries=30)
        statistics = score(judge(server, tmp_path, patient), pairs(n))
        check_whole(statistics, n)
        assert not (statistics.status == FAILED).any()
        return stored, before, behave.good


def test_a_killed_scoring_goes_on_and_asks_again_only_for_what_was_under_way(tmp_path):
    n = 200
    stored, before, after = kill_midway(tmp_path, n, 120)
    assert 0 < stored < n
    twice = [number for number, count in after.items() if count > 1]
    # An answer that was on its way when the process died was never received: at most one per connection.
    assert len(twice) <= 4
    assert sum(before.values()) - stored <= 4
    assert all(after[number] <= 2 for number in twice)
    assert set(after) == set(range(n))


@pytest.mark.slow
def test_a_thousand_pairs_killed_midway(tmp_path):
    stored, before, after = kill_midway(tmp_path, 1000, 700)
    assert 0 < stored < 1000
    assert set(after) == set(range(1000))
    assert sum(after.values()) - 1000 <= 4
    assert sum(before.values()) - stored <= 4


def test_equal_pairs_are_one_question(tmp_path):
    with ChatServer(right_answer) as server:
        given = Pairs(["a", "b", "c"], ["sample 4 x", "sample 4 x", "sample 1 x"], ["r", "r", "r"])
        statistics = score(judge(server, tmp_path), given)
        assert len(server.heard) == 2
    assert statistics.rows[:, 0, 1].tolist() == [5, 5, 2]


def test_repeats_have_seeds_of_their_own_and_their_spread_is_kept(tmp_path):
    def behave(heard):
        return answer(chexprompt_answer((heard.asked["seed"], 0, 0, 0, 0, 0)))

    with ChatServer(behave) as server:
        statistics = score(judge(server, tmp_path, repeats=3), pairs(4))
        assert sorted(Counter(body["seed"] for body in server.bodies()).items()) == [(0, 4), (1, 4), (2, 4)]
    assert statistics.rows[:, :, 1].tolist() == [[0, 1, 2]] * 4
    sums = statistics.rows.mean(axis=1).sum(axis=0)
    values = ChexPrompt().value(sums)
    assert (values["total"], values["repeat_sd"]) == (1, 1)


def test_one_repeat_that_fails_fails_the_sample_and_only_that_one_is_asked_again(tmp_path):
    broken = {"now": True}

    def behave(heard):
        number = marks(candidate_of(heard.asked))
        return status(500) if broken["now"] and (number, heard.asked["seed"]) == (1, 2) else right_answer(heard)

    policy = Policy(first_delay=0.0, retries=0)
    with ChatServer(behave) as server:
        statistics = score(judge(server, tmp_path, policy, repeats=3), pairs(3))
        assert statistics.status.tolist() == [[0] * 3, [1] * 3, [0] * 3]
        assert statistics.reasons[1] == f"{PENDING}: no_answer: HTTP 500 (repeat 3 of 3)"
        broken["now"], asked = False, len(server.heard)
        statistics = score(judge(server, tmp_path, policy, repeats=3), pairs(3))
        assert len(server.heard) - asked == 1
    assert not statistics.status.any()


def test_a_budget_stops_cleanly_and_the_next_command_goes_on(tmp_path):
    with ChatServer(right_answer) as server:
        for expected in (7, 14, 20):
            made = judge(server, tmp_path, budget=Budget(7))
            statistics = score(made, pairs(20))
            check_whole(statistics, 20)
            assert int((statistics.status == SCORED).sum()) == expected
            if expected < 20:
                assert "not asked: the budget of 7 requests is spent" in next(filter(None, statistics.reasons))
        assert len(server.heard) == 20


def test_cost_and_tokens_are_counted_and_the_notes_say_who_answered(tmp_path):
    with ChatServer(right_answer) as server:
        made = judge(server, tmp_path, budget=Budget(None, None, Prices(1.0, 2.0)))
        score(made, pairs(10))
        again = judge(server, tmp_path)
        score(again, pairs(10))
    tag = built_in("chexprompt").tag
    assert (made.usage[tag].prompt_tokens, made.usage[tag].output_tokens) == (120, 50)
    assert made.usage[tag].cost == pytest.approx(10 * (12 + 2 * 5) / 1e6)
    assert again.usage[tag].cost == pytest.approx(made.usage[tag].cost)
    first, second = again.told(tag)
    assert first.startswith(f"judge openai:m, rubric {tag}: 10 answers, 0 of them asked for now; 120 prompt and 50")
    assert second == "served by served-model fp_1 (10)"


def test_a_changed_model_behind_the_name_is_told(tmp_path):
    names = iter(["one", "two"] * 5)
    with ChatServer(lambda heard: answer(right(0), model=next(names))) as server:
        made = judge(server, tmp_path)
        score(made, pairs(10))
    assert "the model behind the name has changed meanwhile" in made.told(built_in("chexprompt").tag)[1]


def test_responses_are_kept_raw_and_for_their_owner_alone(tmp_path):
    with ChatServer(right_answer) as server:
        score(judge(server, tmp_path), pairs(1))
    file = tmp_path / FILE
    assert file.stat().st_mode & 0o077 == 0
    with sqlite3.connect(file) as base:
        text, readable, about, body = base.execute("SELECT text, readable, about, body FROM answer").fetchone()
    base.close()
    assert (text, readable) == (right(0), 1)
    assert json.loads(body)["model"] == "served-model"
    told = json.loads(about)
    assert told["rubric"] == built_in("chexprompt").tag
    assert told["who"]["model"] == "m"
    assert "effusion" not in about


@pytest.mark.parametrize("change", [{"model": "n"}, {"revision": "2"}, {"url": "http://127.0.0.1:9/v1"}])
def test_every_part_of_who_answers_is_in_the_key(change):
    def key(model="m", revision="", url="http://127.0.0.1:8/v1", rubric="chexprompt", repeat=0):
        asker = ServerJudge(model, open_endpoint(url, "open", {}), revision=revision)
        return Prompt(built_in(rubric), (("user", "x"),), repeat).key(asker.identity())

    assert key(**change) != key()
    assert len({key(), key(repeat=1), key(rubric="green")}) == 3


def test_structured_output_is_asked_for_where_the_server_takes_it(tmp_path):
    def refusing(heard):
        return status(400) if "response_format" in heard.asked else right_answer(heard)

    for name, behave in (("takes", right_answer), ("refuses", refusing)):
        with ChatServer(behave) as server:
            asker = ServerJudge("m", open_endpoint(server.url, "credentialed", {}), FAST)
            statistics = score(Judge(asker, folder=tmp_path / name), pairs(6))
            given = ["response_format" in body for body in server.bodies()]
        assert not statistics.status.any()
        assert given == ([True] * 6 if name == "takes" else [True] + [False] * 6)
    schema = built_in("chexprompt").output
    with ChatServer(right_answer) as server:
        asker = ServerJudge("m", open_endpoint(server.url, "credentialed", {}), FAST)
        score(Judge(asker), pairs(1))
        sent = server.bodies()[0]["response_format"]
    assert sent == {"type": "json_schema", "json_schema": {"name": "chexprompt", "strict": True, "schema": schema}}


def test_a_wrong_key_stops_at_once_and_says_so(tmp_path):
    with ChatServer(lambda heard: status(401)) as server:
        made = judge(server, tmp_path)
        statistics = score(made, pairs(50))
        assert len(server.heard) <= FAST.concurrency
    assert (statistics.status == FAILED).all()
    assert "refuses the key" in made.told(built_in("chexprompt").tag)[-1]


def test_a_store_that_cannot_be_written_ends_the_command_with_a_sentence(tmp_path):
    (tmp_path / FILE).mkdir(parents=True)
    (tmp_path / "CXRBENCH_CACHE").touch()
    with pytest.raises(CxrbenchError, match="cannot be kept") as told:
        JudgeStore(tmp_path)
    assert told.value.code == Exit.INFRASTRUCTURE


def test_a_damaged_store_is_named(tmp_path):
    (tmp_path / "CXRBENCH_CACHE").touch()
    (tmp_path / FILE).write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(CxrbenchError, match="cannot be kept or read"):
        JudgeStore(tmp_path)


def test_nobody_is_asked_when_there_is_nothing_to_ask(tmp_path):
    with ChatServer() as server:
        assert judge_all([], judge(server, tmp_path), parser_of(built_in("green"))) == []
    assert not server.heard


def automatic(server, folder, **further):
    return Judge(ServerJudge("m", open_endpoint(server.url, "credentialed", {}), FAST, **further), folder=folder)


def test_answers_with_and_without_a_schema_are_never_mixed_and_auto_keeps_to_what_it_found(tmp_path):
    takes = {"schema": False}

    def behave(heard):
        return status(400) if "response_format" in heard.asked and not takes["schema"] else right_answer(heard)

    with ChatServer(behave) as server:
        score(automatic(server, tmp_path, budget=Budget(4)), pairs(6))
        takes["schema"] = True  # the server has learnt it meanwhile; three of six are there without
        statistics = score(automatic(server, tmp_path), pairs(6))
        assert not statistics.status.any()
        assert ["response_format" in body for body in server.bodies()] == [True] + [False] * 6
        # The same question, however the user came to ask it: nothing is paid twice.
        score(automatic(server, tmp_path, structured="no"), pairs(6))
        assert len(server.heard) == 7
        score(automatic(server, tmp_path, structured="yes"), pairs(6))
        assert len(server.heard) == 13
        made = automatic(server, tmp_path)
        score(made, pairs(6))
        assert len(server.heard) == 13
    assert made.told(built_in("chexprompt").tag)[0].endswith("; structured output")


def test_every_rubric_finds_out_for_itself_whether_its_schema_is_taken():
    def behave(heard):  # knows JSON mode, and no schemas
        if heard.asked.get("response_format", {}).get("type") == "json_schema":
            return status(400)
        return answer("{}")

    with ChatServer(behave) as server:
        made = automatic(server, None)
        for name in ("chexprompt", "crimson"):
            prompts = [Prompt(built_in(name), (("user", f"{name} {i}"),)) for i in range(2)]
            judge_all(prompts, made, parser_of(built_in(name)))
        sent = [body.get("response_format", {}).get("type") for body in server.bodies()]
    assert sent == ["json_schema", None, None, "json_object", "json_object"]


def test_a_first_prompt_that_is_rejected_either_way_says_nothing_of_schemas(tmp_path):
    def behave(heard):
        return status(400) if marks(candidate_of(heard.asked)) == 0 else right_answer(heard)

    with ChatServer(behave) as server:
        statistics = score(automatic(server, tmp_path), pairs(4))
        assert ["response_format" in body for body in server.bodies()] == [True, False, True, True, True]
    assert statistics.status[:, 0].tolist() == [FAILED, SCORED, SCORED, SCORED]


PRICED = Prices(1e6, 1e6)


def test_what_an_answer_cost_that_could_not_be_read_is_never_forgotten(tmp_path):
    words = {"now": "I would rather not."}
    with ChatServer(lambda heard: answer(words["now"] or right(0))) as server:
        for asked in (1, 2):
            made = judge(server, tmp_path, budget=Budget(None, None, PRICED))
            score(made, pairs(1))
            assert made.usage[built_in("chexprompt").tag].cost == 17 * asked
        words["now"] = None
        for asked in (1, 0):
            made = judge(server, tmp_path, budget=Budget(None, None, PRICED))
            assert not score(made, pairs(1)).status.any()
            usage = made.usage[built_in("chexprompt").tag]
            assert (usage.cost, usage.asked, usage.lost) == (51, asked, 2)
    assert "2 of other answers that could not be read included" in made.told(built_in("chexprompt").tag)[0]
    with sqlite3.connect(tmp_path / FILE) as base:
        assert base.execute("SELECT text FROM earlier").fetchall() == [("I would rather not.",)] * 2
    base.close()


def test_a_refusal_is_kept_raw_and_priced_and_is_no_score(tmp_path):
    body = {"choices": [{"message": {"refusal": "I will not."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 5}}  # fmt: skip
    with ChatServer(lambda heard: status(200, json.dumps(body).encode())) as server:
        for asked in (1, 2):
            made = judge(server, tmp_path, budget=Budget(None, None, PRICED))
            statistics = score(made, pairs(1))
            assert statistics.reasons == (f"{PENDING}: refused: the model declined",)
            assert made.usage[built_in("chexprompt").tag].cost == 17 * asked
    with sqlite3.connect(tmp_path / FILE) as base:
        assert base.execute("SELECT text, readable FROM answer").fetchone() == ("", 0)
    base.close()


def test_an_answer_without_token_counts_has_no_cost_instead_of_none_at_all(tmp_path):
    with ChatServer(lambda heard: answer(right(0), usage=None)) as server:
        made = judge(server, tmp_path, budget=Budget(None, None, PRICED))
        score(made, pairs(2))
    usage = made.usage[built_in("chexprompt").tag]
    assert (usage.priced, usage.uncounted) == (0, 2)
    assert "cost" not in made.told(built_in("chexprompt").tag)[0]


def test_a_server_that_is_not_there_is_told_at_once_and_what_is_known_stays_scored(tmp_path):
    with ChatServer(right_answer) as server:
        score(judge(server, tmp_path, budget=Budget(2)), pairs(4))
    made = judge(server, tmp_path, Policy(first_delay=0.0, retries=10**6, hopeless=10**6))
    statistics = score(made, pairs(4))
    assert statistics.status[:, 0].tolist().count(SCORED) == 2
    assert f"{PENDING}: no_answer: not asked: the server cannot be reached: nobody listens" in "".join(
        statistics.reasons
    )
    assert made.asker.stopped().startswith("the server cannot be reached")


def test_a_server_that_breaks_on_the_list_of_models_is_asked_all_the_same(tmp_path):
    with ChatServer(right_answer, models=reset()) as server:
        assert not score(judge(server, tmp_path), pairs(2)).status.any()
