"""The documentation tells what the code does: the task table, the README's two commands, links that lead somewhere."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_task_table_is_current():
    module = runpy.run_path(str(ROOT / "tools/task_table.py"))
    assert module["page"]() == (ROOT / "docs/tasks.md").read_text(), "run: python tools/task_table.py"


def test_the_readme_has_exactly_two_commands_for_a_fresh_machine():
    blocks = re.findall(r"```sh\n(python3 -m venv .*?)\n```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 2
    assert "cxrbench run --model" in blocks[0]
    assert "tox" in blocks[1]
    assert not any("\n" in block for block in blocks)


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http", "mailto")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_no_file_holds_credentialed_text():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in files.stdout.splitlines() if (ROOT / name).exists()]  # not those deleted since
    subprocess.run([sys.executable, "tools/check_no_private_text.py", *names], cwd=ROOT, check=True)


def test_the_page_of_conventions_is_current():
    module = runpy.run_path(str(ROOT / "tools/which_number.py"))
    assert module["page"]() == (ROOT / "docs/which-number.md").read_text(), "run: python tools/which_number.py"
