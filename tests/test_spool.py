"""A long sequence in a file behaves as the tuple it stands for."""

from hypothesis import given
from hypothesis import strategies as st

from cxrbench import spool
from cxrbench.spool import Each, Growing, Ids, Passing, Spool, blocks

ITEMS = st.lists(st.tuples(st.text(), st.none() | st.floats(allow_nan=False), st.dictionaries(st.text(), st.text())))


@given(ITEMS, st.integers(-8, 8), st.integers(-8, 8), st.sampled_from([None, 1, 2, -1]))
def test_a_spool_is_the_sequence_that_was_put_in(items, start, stop, step):
    made = Spool(lambda value: value)
    for item in items:
        made.add(item)
    made.close()
    assert list(made) == items
    assert len(made) == len(items)
    assert made[start:stop:step] == tuple(items[start:stop:step])
    assert [made[place] for place in range(-len(items), len(items))] == items + items


def test_a_growing_sequence_leaves_memory_at_the_limit(monkeypatch):
    monkeypatch.setattr(spool, "LIMIT", 5)
    for count, kind in ((5, tuple), (6, Spool), (2000, Spool)):
        made = Growing(lambda n: (n,), lambda value: value[0])
        made.extend(range(count))
        found = made.finish()
        assert type(found) is kind
        assert list(found) == list(range(count))


def test_views_make_items_when_they_are_asked_for():
    squares = Each(4, lambda n: n * n)
    assert (list(squares), squares[-1], squares[1:3], len(squares)) == ([0, 1, 4, 9], 9, (1, 4), 4)
    text = Passing(squares, str)
    assert (list(text), text[2], text[1:3], len(text)) == (["0", "1", "4", "9"], "4", ("1", "4"), 4)
    assert list(blocks(range(5), 2)) == [(0, 1), (2, 3), (4,)]


@given(st.lists(st.text(), max_size=200))
def test_ids_are_a_set_and_the_places_of_a_dict(texts):
    ids, places = Ids(), {}
    for text in texts:
        assert ids.add(text) is (text not in places)
        places.setdefault(text, len(places))
    assert list(ids) == list(places)
    assert {text: ids.place(text) for text in texts} == places
    assert ids == places.keys()
    assert places.keys() == ids
    assert [ids.at(place) for place in range(len(ids))] == list(places)
    assert None not in ids
    assert ids.place("".join(texts) + "!") == -1


def test_ids_hold_what_is_no_character():
    ids = Ids(["\ud800", "", "a\0b"])
    assert list(ids) == ["\ud800", "", "a\0b"]
    assert ids - {"", "b"} == {"\ud800", "a\0b"}
