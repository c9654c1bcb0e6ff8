"""SECURITY.md promises nothing without a test: every row names one that exists, every file of attacks has rows."""

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TABLE = FOLDER.parents[1] / "SECURITY.md"


def rows():
    text = TABLE.read_text(encoding="utf-8").split("## Threats")[1]
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names_in(file):
    found = ast.walk(ast.parse((FOLDER / file).read_text(encoding="utf-8")))
    return {node.name for node in found if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_row_names_a_test_that_exists_and_asserts():
    table = rows()
    assert len(table) >= 40
    for row in table:
        assert len(row) == 4, row
        what, promised, _, named = row
        found = re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`", named)
        assert found, what
        assert found[2] in names_in(found[1]), named
        assert promised, what
        body = (FOLDER / found[1]).read_text(encoding="utf-8").split(f"def {found[2]}(")[1].split("\ndef ")[0]
        assert re.search(r"\bassert\b|raises\(|refused\(|failed\(|within\(|suppress\(CxrbenchError\)", body), named


def test_no_row_is_there_twice_and_no_file_of_attacks_is_missing():
    names = [row[0] for row in rows()]
    assert len(set(names)) == len(names)
    used = {row[3].strip("`").split("::")[0] for row in rows()}
    assert {file.name for file in FOLDER.glob("test_*.py")} - {Path(__file__).name} == used
