"""What is hidden cannot be worked out from what is shown: checked with ranks, which the code does not use."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrbench.small_cells import _heads, _hidden, _numbered, hidden_on_any, patients_of


def masks(**sizes):
    starts = np.cumsum([0, *sizes.values()])
    places = np.arange(starts[-1])
    return {
        name: (places >= start) & (places < start + size)
        for (name, size), start in zip(sizes.items(), starts[:-1], strict=True)
    }


def hidden(fewest, **sizes):
    groups = masks(**sizes)
    n = sum(sizes.values())
    return hidden_on_any({"c": groups}, [np.ones(n, bool)], [str(place) for place in range(n)], fewest)["c"]


def test_what_a_gap_and_a_total_tell_of_the_hidden_is_of_enough_patients():
    """Two small cells hide each other by name only: the shown group and the total tell what both are together."""
    assert hidden(10, a=100, b=2, c=3) == {"a", "b", "c"}
    assert hidden(10, a=100, b=6, c=7) == {"b", "c"}
    assert hidden(10, a=100, b=50, c=4) == {"b", "c"}
    assert hidden(10, a=100, b=50, c=0) == set()
    assert hidden(10, a=100, b=50) == set()


def test_a_finer_grouping_does_not_tell_what_a_coarser_one_hides():
    """white = european + american: whoever sees white and american knows european."""
    fine = masks(european=4, american=40, black=30, asian=30)
    coarse = {"white": fine["european"] | fine["american"], "black": fine["black"], "asian": fine["asian"]}
    clusters = [str(n) for n in range(104)]
    everybody = np.ones(104, bool)
    alone = hidden_on_any({"fine": fine}, [everybody], clusters, 10)["fine"]
    assert alone == {"european", "asian"}  # asian is the smallest but one; american is shown
    both = hidden_on_any({"fine": fine, "coarse": coarse}, [everybody], clusters, 10)
    shown = {name for name in fine if name not in both["fine"]} | {
        name for name in coarse if name not in both["coarse"]
    }
    assert not {"american", "white"} <= shown
    assert "european" in both["fine"]


def test_samples_that_were_not_scored_are_no_part_of_the_total():
    """b is hidden in one column; in the other it is the total less the rest, whoever else has no score."""
    one = masks(a=40, b=5, c=30)
    scored = np.concatenate([np.ones(75, bool), np.zeros(10, bool)])
    columns = {
        "one": {name: np.concatenate([mask, np.zeros(10, bool)]) for name, mask in one.items()},
        "two": {"ac": np.concatenate([one["a"] | one["c"], np.zeros(10, bool)])},
    }
    found = hidden_on_any(columns, [scored], [str(n) for n in range(85)], 10)
    assert found == {"one": frozenset("bc"), "two": frozenset({"ac"})}


def test_a_run_of_few_patients_shows_no_group_and_ends():
    assert hidden(10, a=3, b=4) == {"a", "b"}
    assert hidden(10, a=5) == {"a"}


def test_what_a_group_leaves_of_the_total_or_of_a_wider_group_is_not_told():
    """Findings overlap: all but four have one, and all but three of those with an opacity a consolidation."""
    n = 60
    ids, place = [str(number) for number in range(n)], np.arange(n)
    labels = {"devices": place >= 4, "opacity": place < 30, "consolidation": place < 27, "edema": place >= 40}
    assert hidden_on_any({"label": labels}, [np.ones(n, bool)], ids, 3)["label"] == set()
    # The smaller of the two that tell of three patients, and a second, so that it is not alone.
    assert hidden_on_any({"label": labels}, [np.ones(n, bool)], ids, 4)["label"] == {"consolidation", "edema"}
    found = hidden_on_any({"label": labels}, [np.ones(n, bool)], ids, 10)["label"]
    assert {"devices", "consolidation"} <= found
    # Two studies of each patient: few samples may be of enough patients, and many of too few.
    pairs = [str(number // 2) for number in range(n)]
    assert "devices" in hidden_on_any({"label": labels}, [np.ones(n, bool)], pairs, 3)["label"]


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_no_small_cell_is_a_combination_of_what_is_shown(data):
    n = data.draw(st.integers(12, 60))
    columns = {}
    for number in range(data.draw(st.integers(1, 3))):
        draws = np.array(data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)))
        columns[str(number)] = {str(k): draws == k for k in range(6)}
    if data.draw(st.booleans()):  # one column is another with two groups joined
        first = columns["0"]
        columns["joined"] = {"01": first["0"] | first["1"], **{k: first[k] for k in "2345"}}
    clusters = [str(place // 2) for place in range(n)]
    total = np.array(data.draw(st.lists(st.sampled_from([True, True, True, False]), min_size=n, max_size=n)))
    columns = {c: {name: mask & total for name, mask in groups.items()} for c, groups in columns.items()}
    fewest = 4
    out = hidden_on_any(columns, [total], clusters, fewest)
    shown = [m for c, groups in columns.items() for name, m in groups.items() if name not in out[c] and m.any()]
    basis = np.stack([total, *shown]).astype(float)
    rank = np.linalg.matrix_rank(basis)
    known = [groups[name] for groups in columns.values() for name in groups if groups[name].any()]
    left = [one & ~two for one in (total, *known) for two in known if not (two & ~one).any()]
    few = 0
    for mask in (*known, *left):
        if 0 < len(patients_of(mask, clusters)) < fewest and not (mask == total).all():
            few += 1
            assert np.linalg.matrix_rank(np.vstack([basis, mask.astype(float)])) > rank
    for column, groups in columns.items():
        sizes = {name: len(patients_of(mask, clusters)) for name, mask in groups.items() if mask.any()}
        small = {name for name, size in sizes.items() if size < fewest}
        assert small <= out[column] <= set(sizes)
        assert not out[column] or len(out[column]) > 1 or len(sizes) == 1
    assert few or not any(out.values()) or len(patients_of(total, clusters)) < fewest


@pytest.mark.parametrize("fewest", [1, 10])
def test_nothing_is_hidden_that_need_not_be(fewest):
    groups = masks(a=50, b=40, c=30)
    other = {"x": groups["a"] | groups["b"], "y": groups["c"]}
    found = hidden_on_any({"c": groups, "o": other}, [np.ones(120, bool)], [str(n) for n in range(120)], fewest)
    assert found == {"c": frozenset(), "o": frozenset()}


def test_a_cell_is_hidden_as_a_whole_where_one_of_its_numbers_rests_on_few():
    groups = masks(a=40, b=30, c=30)
    everybody, part = np.ones(100, bool), np.ones(100, bool)
    part[5:40] = False  # five of a
    ids = [str(n) for n in range(100)]
    assert hidden_on_any({"c": groups}, [everybody], ids, 10) == {"c": frozenset()}
    assert hidden_on_any({"c": groups}, [everybody, part], ids, 10) == {"c": frozenset("ab")}
    assert hidden_on_any({"c": groups}, [everybody, np.zeros(100, bool)], ids, 10) == {"c": frozenset()}


def test_of_groups_within_each_other_by_few_patients_nearly_all_are_hidden():
    place, ids = np.arange(300), [str(number // 2) for number in range(300)]
    nested = {"nested": {str(step): place >= 3 * step for step in range(90)}}
    assert sum(map(len, hidden_on_any(nested, [np.ones(300, bool)], ids, 10).values())) >= 89


def test_numbers_of_patients_do_not_count_a_hidden_group_either():
    """Everybody of a and b has a first visit among these, and 34 patients less the 30 of a are the four of b."""
    race = {name: np.repeat(mask, 2) for name, mask in masks(a=30, b=4, c=20).items()}
    first = np.tile([True, False], 54) & (race["a"] | race["b"])
    columns = {"race": race, "visit": {"first of a and b": first, "other": ~first}}
    everybody, ids = np.ones(108, bool), [str(n // 2) for n in range(108)]
    who = _numbered(ids)
    heads = {column: {name: _heads(mask, who) for name, mask in groups.items()} for column, groups in columns.items()}
    by_samples = _hidden(columns, heads, everybody, who, 10)
    assert by_samples == {"race": frozenset("bc"), "visit": frozenset()}
    assert hidden_on_any(columns, [everybody], ids, 10) == {"race": frozenset("abc"), "visit": frozenset()}
