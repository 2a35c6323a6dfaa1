"""What the documentation says of the tests: that they are there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"\| (\d+) \|.*\| `([\w/]+\.py)(?:::(\w+))?` \|")


def rows():
    """(number, file, test) for each row of the table of faults."""
    text = (ROOT / "docs/faults_compared.md").read_text()
    return [found.groups() for line in text.splitlines() if (found := ROW.fullmatch(line))]


def test_every_fault_has_its_row():
    assert [int(number) for number, _, _ in rows()] == list(range(1, 55))


def test_every_named_test_is_there():
    missing = []
    for _, file, test in rows():
        if test is None:
            assert (ROOT / file).is_file()
            continue
        body = ast.parse((ROOT / "tests" / file).read_text()).body
        if test not in {node.name for node in body if isinstance(node, ast.FunctionDef)}:
            missing.append(f"{file}::{test}")
    assert missing == []
