"""`cxrbench reproduce`: every published table belongs to a paper, and every paper says what was not found."""

import json

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.papers import paper_files, read_paper, rows_here
from cxrbench.report.published import published_files
from cxrbench.spec import task_files
from tests.commands import cli  # noqa: F401  (a fixture)


def test_every_published_table_belongs_to_a_paper_or_a_board():
    named = {table for paper in paper_files() for table in read_paper(paper).tables}
    assert set(published_files()) - named == {"libra-mimic"}  # a model of its own, compared with on boards


def test_every_table_stands_beside_a_task_that_is_there():
    from cxrbench.report.published import published_table

    assert {published_table(name).task for name in published_files()} <= set(task_files())


@pytest.mark.parametrize("name", sorted(paper_files()))
def test_a_paper_without_runs_says_what_to_run(cli, name):
    code, out, err = cli("reproduce", name, "--json")
    assert code == 3, err
    body = json.loads(out)
    held = [row for rows in body["tables"].values() for row in rows]
    assert len(held) == sum(len(rows) for rows in rows_here(read_paper(name)).values())
    assert all(figure["verdict"] == "cannot be compared" for row in held for figure in row["figures"])
    wanted = any(row["wants_run"] for row in held)
    assert bool(body["to_do"]) == wanted
    assert all(line.startswith("cxrbench run --model ") for line in body["to_do"])
    assert body["not_found"].strip()


def test_the_table_reads_well_and_unknown_papers_are_named(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = cli("reproduce", "chexagent")
    assert code == 3
    assert "likeliest option" in out
    assert "97.5" in out
    code, out, _ = cli("reproduce")
    assert code == 0
    assert all(name in out for name in paper_files())
    assert max(map(len, out.splitlines())) <= 100
    code, _, err = cli("reproduce", "slava")
    assert code == 2
    assert "did you mean" in err
    with pytest.raises(CxrbenchError, match="nothing is kept"):
        read_paper("nothing")
