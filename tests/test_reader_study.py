"""A reader study from form to figures; what a reader sees in the browser is in tests/browser/."""

import json
import re
from itertools import combinations, permutations

import numpy as np
import pytest

from cxrbench.config import load_config
from cxrbench.errors import CxrbenchError
from cxrbench.report.reader_study import Asked, create
from cxrbench.report.reader_study_agreement import krippendorff_alpha, weighted_kappa
from cxrbench.report.reader_study_analysis import analyse
from cxrbench.report.reader_study_files import Key, Responses, read_key, read_responses
from cxrbench.report.reader_study_terms import SCALES
from cxrbench.summary import Confidence
from cxrbench.tables import read_samples
from tests.commands import cli  # noqa: F401  (a fixture)
from tests.reader_runs import make_runs

NAN = float("nan")
FEW = Confidence(replicates=200)

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, twelve units.
WORKED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_that_of_the_worked_example(level, alpha):
    assert krippendorff_alpha(WORKED, level) == pytest.approx(alpha, abs=5e-4)


def alpha_by_pairs(ratings, level):
    """Alpha as two means over pairs of ratings: within units, and among all ratings that can be paired."""
    units = [column[~np.isnan(column)] for column in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    pooled = np.concatenate(units)

    def apart(a, b):
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        low, high = min(a, b), max(a, b)
        between = sum(low <= each <= high for each in pooled)
        return (between - (sum(pooled == a) + sum(pooled == b)) / 2) ** 2 if a != b else 0.0

    observed = sum(sum(apart(a, b) for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / len(pooled)
    expected = np.mean([apart(a, b) for a, b in permutations(pooled, 2)])
    return 1 - observed / expected


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(5))
def test_alpha_equals_a_count_over_all_pairs(level, seed):
    rng = np.random.default_rng(seed)
    ratings = rng.integers(1, 6, (3, 15)).astype(float)
    ratings[rng.random((3, 15)) < 0.25] = NAN
    assert krippendorff_alpha(ratings, level) == pytest.approx(alpha_by_pairs(ratings, level), abs=1e-12)


def test_alpha_of_full_agreement_and_of_nothing():
    assert krippendorff_alpha(np.array([[1.0, 2, 3], [1, 2, 3]])) == 1
    assert np.isnan(krippendorff_alpha(np.array([[1.0, NAN], [NAN, 2]])))
    assert np.isnan(krippendorff_alpha(np.array([[2.0, 2], [2, 2]])))
    assert np.isnan(krippendorff_alpha(np.zeros((2, 0))))


POINTS = np.arange(1.0, 6)


def test_kappa_of_a_hand_worked_table():
    """Ratings (1,1) (1,2) (2,2) (3,3) of three categories.

    Observed: one disagreement of weight 1, 1/4. By chance: marginals (2,1,1)/4 and (1,2,1)/4, so
    1 (2*2 + 1*1 + 1*1 + 1*2) + 4 (2*1 + 1*1) over 16 = (8 + 12)/16 = 5/4. Kappa = 1 - (1/4)/(5/4) = 0.8.
    """
    one, two = np.array([1.0, 1, 2, 3]), np.array([1.0, 2, 2, 3])
    assert weighted_kappa(one, two, np.arange(1.0, 4)) == pytest.approx(0.8)


@pytest.mark.parametrize("seed", range(5))
def test_kappa_equals_the_form_with_moments(seed):
    """With quadratic weights kappa is 2 cov / (var + var + squared difference of means) (Fleiss and Cohen 1973)."""
    rng = np.random.default_rng(seed)
    one = rng.integers(1, 6, 40).astype(float)
    two = np.clip(one + rng.integers(-1, 2, 40), 1, 5)
    one[3] = NAN
    a, b = np.delete(one, 3), np.delete(two, 3)
    moments = 2 * np.cov(a, b, bias=True)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    assert weighted_kappa(one, two, POINTS) == pytest.approx(moments, abs=1e-12)


def test_kappa_of_nothing_in_common_is_no_number():
    assert np.isnan(weighted_kappa(np.array([1.0, NAN]), np.array([NAN, 1.0]), POINTS))
    assert np.isnan(weighted_kappa(np.array([2.0]), np.array([2.0]), POINTS))


# ---- the form and its key


def quiet(stage, done, total):
    pass


def made(runs, **asked):
    settings = {"n": 12, "repeats": 2, "parts": ("ratings", "errors", "preferences"), "pictures": "none"} | asked
    return create(runs, Asked(**settings), load_config(None), {}, quiet)


def form_data(html):
    return json.loads(re.search(r'id="data">(.*?)</script>', html.decode(), re.S)[1])


def test_the_form_is_blinded_and_the_key_tells(cli, tmp_path):
    runs = make_runs(tmp_path)
    study = made(runs)
    html = study.html.decode()
    for secret in (
        "random-report",
        "nearest-image",
        str(tmp_path),
        *(s.sample_id for s in read_samples(runs[0].samples_file).samples),
    ):
        assert secret not in html
    assert not any(item["sample"] in html or item["patient"] in html for item in study.key["items"].values())
    key = Key.model_validate_json(json.dumps(study.key))
    texts = [{" ".join(row.text.split()) for row in run.predictions().values()} for run in runs]
    for item in form_data(study.html)["items"]:
        order = key.items[item["item"]].order
        for position, system in enumerate(order):
            assert item["reports"][position] in texts[system]


def test_sides_are_balanced_and_repeats_are_swapped(cli, tmp_path):
    study = made(make_runs(tmp_path))
    first = {name: item for name, item in study.key["items"].items() if item["repeats"] is None}
    assert sorted(item["order"] for item in first.values()) == [[0, 1]] * 6 + [[1, 0]] * 6
    again = [item for item in study.key["items"].values() if item["repeats"]]
    assert len(again) == 2
    for item in again:
        assert item["order"] == first[item["repeats"]]["order"][::-1]
        assert item["sample"] == first[item["repeats"]]["sample"]
    repeated = [item for item in form_data(study.html)["items"] if item["parts"] == ["preferences"]]
    assert len(repeated) == 2


def test_patients_come_once_while_there_are_others(cli, tmp_path):
    runs = make_runs(tmp_path)
    patients = len({sample.patient_id for sample in read_samples(runs[0].samples_file).samples})
    key = made(runs, n=patients, repeats=0).key
    assert len({item["patient"] for item in key["items"].values()}) == patients


def test_the_same_study_has_the_same_bytes_and_another_seed_others(cli, tmp_path):
    runs = make_runs(tmp_path)
    assert made(runs) == made(runs)
    assert made(runs).html != made(runs, seed=1).html


def test_the_reference_can_be_rated_or_hidden(cli, tmp_path):
    runs = make_runs(tmp_path, models=("random-report",))
    study = made(runs, reference="rated")
    assert [system["name"] for system in study.key["systems"]] == ["random-report", "reference"]
    targets = {sample.target for sample in read_samples(runs[0].samples_file).samples}
    for item in form_data(study.html)["items"]:
        assert item["reference"] is None
        assert item["reports"][study.key["items"][item["item"]]["order"].index(1)] in targets
    hidden = made(runs, reference="hidden", parts=("ratings",), repeats=0)
    assert not any(target in hidden.html.decode() for target in targets)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"n": 999}, "999 cases were asked for, 24 samples"),
        ({"repeats": 13}, "no more repeats than cases"),
        ({"parts": ("ratings",)}, "repeats ask for a preference"),
    ],
)
def test_a_study_that_cannot_be_is_refused(cli, tmp_path, asked, said):
    with pytest.raises(CxrbenchError, match=said):
        made(make_runs(tmp_path), **asked)


def test_one_report_alone_has_no_preference(cli, tmp_path):
    with pytest.raises(CxrbenchError, match="nothing to prefer"):
        made(make_runs(tmp_path, models=("random-report",)))


def test_form_and_key_are_private_and_a_key_is_never_overwritten(cli, tmp_path):
    make_runs(tmp_path, access="credentialed")
    words = ("reader-study", "create", "random-report", "nearest-image", "--n", 5, "-o", "form.html")
    assert cli(*words)[0] == 0
    for file in ("form.html", "form.html.key.json"):
        assert (tmp_path / file).stat().st_mode & 0o777 == 0o600
    assert b"Credentialed data, do not share" in (tmp_path / "form.html").read_bytes()
    assert cli(*words)[0] == 0  # the same study again
    code, _, err = cli(*words, "--seed", 1)
    assert code == 2
    assert "its answers could never be read again" in err


# ---- what comes back


def answers(study, reader, say):
    """Answers of a reader to every item; `say(system, scale)` is a rating, and the better of two is preferred."""
    items = {}
    for name, item in study.key["items"].items():
        order, body = item["order"], {"ratings": [], "errors": [], "preferences": {}, "done": True}
        total = [sum(say(system, scale) for scale in SCALES) for system in order]
        for a, b in combinations(range(len(order)), 2):
            choice = "equal" if total[a] == total[b] else "first" if total[a] > total[b] else "second"
            body["preferences"][f"{a}-{b}"] = choice
        if item["repeats"] is None:
            body["ratings"] = [{scale: say(system, scale) for scale in SCALES} for system in order]
            body["errors"] = [{"missed_finding": [system + 1, 0]} for system in order]
        items[name] = body
    return {
        "what": "cxrbench reader study responses",
        "format": 1,
        "study": study.key["study"],
        "reader": reader,
        "items": items,
    }


def joined(study, *readers):
    key = Key.model_validate_json(json.dumps(study.key))
    return analyse(key, [Responses.model_validate(each) for each in readers], FEW)


def test_answers_go_back_to_the_system_they_were_about(cli, tmp_path):
    study = made(make_runs(tmp_path))
    found = joined(study, answers(study, "A", lambda system, scale: 2 + 2 * system))
    assert found["n"] == found["n_expected"] == 12
    one, two = found["systems"]["random-report"], found["systems"]["nearest-image"]
    assert [one["ratings"][scale]["mean"] for scale in SCALES] == [2, 2, 2]
    assert [two["ratings"][scale]["mean"] for scale in SCALES] == [4, 4, 4]
    assert one["errors"]["significant"]["missed_finding"]["mean"] == one["errors"]["significant"]["total"]["mean"] == 1
    assert two["errors"]["significant"]["total"]["mean"] == 2
    assert two["errors"]["insignificant"]["total"]["mean"] == 0
    (pair,) = found["preferences"]
    assert (pair["a"], pair["wins"], pair["ties"], pair["losses"], pair["win_rate"]) == ("random-report", 0, 0, 12, 0)
    assert found["sides"]["first_side_rate"] == 0.5  # sides are balanced, so a reader who looks at reports has no side
    assert found["repeats"]["A"] == {"same": 2, "n": 2, "share": 1}
    assert found["differences"][0]["ratings"]["correctness"]["mean"] == 2
    samples = {item["sample"] for item in study.key["items"].values()}
    assert {case["sample"] for case in found["cases"]} == samples
    assert found["cases"][0]["systems"]["nearest-image"]["ratings"]["coherence"] == {"A": 4}
    assert found["cases"][0]["systems"]["nearest-image"]["errors"]["significant"] == {"A": 2}


def test_a_reader_who_takes_the_first_side_shows_in_sides_and_repeats(cli, tmp_path):
    study = made(make_runs(tmp_path))
    body = answers(study, "A", lambda system, scale: 3)
    for item in body["items"].values():
        item["preferences"] = {"0-1": "first"}
    found = joined(study, body)
    assert found["sides"]["first_side_rate"] == 1
    assert found["preferences"][0]["win_rate"] == 0.5
    assert found["repeats"]["A"]["share"] == 0


def test_readers_who_agree_have_alpha_and_kappa_one(cli, tmp_path):
    study = made(make_runs(tmp_path))
    readers = [answers(study, reader, lambda system, scale: 2 + 2 * system) for reader in ("A", "B")]
    agreement = joined(study, *readers)["agreement"]
    for what in (*SCALES, "preference", "significant_errors"):
        expected = None if what == "preference" else 1  # everybody always prefers one system: nothing to agree upon
        assert agreement[what]["alpha"] == expected
    assert agreement["correctness"]["kappa_mean"] == 1
    assert agreement["correctness"]["units"] == 24


def test_intervals_resample_patients_not_ratings(cli, tmp_path):
    """Ten readers who say the same are no more evidence than one."""
    study = made(make_runs(tmp_path))
    samples = sorted({item["sample"] for item in study.key["items"].values()})
    one = answers(study, "A", lambda system, scale: 3)
    for name, item in study.key["items"].items():
        if item["repeats"] is None:
            point = 1 + samples.index(item["sample"]) % 5
            one["items"][name]["ratings"] = [dict.fromkeys(SCALES, point)] * 2
    alone = joined(study, one)["systems"]["random-report"]["ratings"]["correctness"]
    many = joined(study, *({**one, "reader": f"R{i}"} for i in range(10)))["systems"]["random-report"]["ratings"]
    assert many["correctness"]["ci"] == pytest.approx(alone["ci"])
    assert many["correctness"]["n"] == 10 * alone["n"]


def write(folder, name, body):
    file = folder / name
    file.write_text(json.dumps(body))
    return file


def test_analyze_prints_tables_and_json_and_exits_3_until_all_is_answered(cli, tmp_path):
    study = made(make_runs(tmp_path))
    key = write(tmp_path, "key.json", study.key)
    body = answers(study, "A", lambda system, scale: 2 + 2 * system)
    files = [write(tmp_path, "a.json", body), write(tmp_path, "b.json", {**body, "reader": "B"})]
    code, out, _ = cli("reader-study", "analyze", *files, "--key", key, "--replicates", 200)
    assert code == 0
    assert "win rate" in out
    assert "Krippendorff" in out
    found = json.loads(cli("reader-study", "analyze", *files, "--key", key, "--replicates", 200, "--json")[1])
    assert found["readers"] == ["A", "B"]
    first = next(name for name, item in study.key["items"].items() if item["repeats"] is None)
    del body["items"][first]
    code, _, err = cli("reader-study", "analyze", write(tmp_path, "c.json", body), "--key", key, "--replicates", 200)
    assert code == 3
    assert "reader A: 11 of 12 cases" in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda body: body | {"study": "0" * 16}, "the answers are of study"),
        (lambda body: body | {"what": "something"}, "the file is not the answers of a reader"),
        (lambda body: body | {"items": {"c9999": {}}}, "is not in the key"),
        (lambda body: body | {"items": {"c0001": {"ratings": [{}]}}}, "does not have 2 reports"),
        (lambda body: body | {"items": {"c0001": {"ratings": [{"beauty": 3}, {}]}}}, "a scale that is not asked"),
        (lambda body: body | {"items": {"c0001": {"ratings": [{"coherence": 9}, {}]}}}, "less than or equal to 5"),
        (lambda body: body | {"items": {"c0001": {"errors": [{"other": [1, 1]}, {}]}}}, "an error category"),
        (lambda body: body | {"items": {"c0001": {"preferences": {"0-7": "first"}}}}, "prefers between reports"),
        (lambda body: body | {"reader": ""}, "the file is not the answers of a reader"),
    ],
)
def test_answers_that_do_not_fit_are_refused(cli, tmp_path, change, said):
    study = made(make_runs(tmp_path))
    key = read_key(write(tmp_path, "key.json", study.key))
    body = change(answers(study, "A", lambda system, scale: 3))
    with pytest.raises(CxrbenchError, match=said):
        read_responses([write(tmp_path, "a.json", body)], key)


def test_a_reader_who_comes_twice_is_refused(cli, tmp_path):
    study = made(make_runs(tmp_path))
    key = read_key(write(tmp_path, "key.json", study.key))
    files = [write(tmp_path, name, answers(study, "A", lambda system, scale: 3)) for name in ("a.json", "b.json")]
    with pytest.raises(CxrbenchError, match="two files hold answers of reader 'A'"):
        read_responses(files, key)


def test_a_file_that_is_no_json_is_refused_without_its_content(tmp_path):
    file = tmp_path / "key.json"
    file.write_text("No effusion.")
    with pytest.raises(CxrbenchError, match="it is not JSON") as refused:
        read_key(file)
    assert "effusion" not in str(refused.value)
