"""docs/is_my_agent_optimal.md: each block runs, in order, and prints what the page says."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest

import rlkit

PAGE = Path(__file__).parent.parent / "docs" / "is_my_agent_optimal.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VARIES = "<!-- numbers vary -->\n"
NUMBER = re.compile(r"-?\d[\d.,]*(e-?\d+)?")
WORDS = {"↑": "→", "↓": "→", "←": "→", "not solved": "solved", "not optimal": "optimal"}
CLOCK = re.compile(r"^(seconds  |.*( s of training|steps/s|certified))")


@dataclass
class Block:
    """What is run, and what the page says it prints; `varies` with the machine's arithmetic."""

    kind: str
    source: str
    printed: list[str] = field(default_factory=list)
    varies: bool = False


def blocks(text):
    """The page's commands and programs, each with its output."""
    found = []
    for fence in FENCE.finditer(text):
        kind, body = fence.groups()
        varies = text[: fence.start()].endswith(VARIES)
        if kind == "text":
            found[-1].printed, found[-1].varies = body.splitlines(), varies
            continue
        if kind == "console":
            command, *printed = body.splitlines()
            found.append(Block(kind, command.removeprefix("$ "), printed, varies))
            continue
        assert kind == "python", f"no one knows how to run {kind}"
        found.append(Block(kind, body))
    return found


def called(command):
    """What rlkit's command prints, in a process of its own and 80 columns."""
    name, *told = shlex.split(command)
    assert name == "rlkit"
    env = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    python = [sys.executable, "-m", "rlkit"]
    done = subprocess.run([*python, *told], capture_output=True, env=env, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def ran(program, namespace):
    printed = StringIO()
    with redirect_stdout(printed):
        exec(compile(program, str(PAGE), "exec"), namespace)
    return printed.getvalue()


def comparable(line, varies):
    """A line without what differs from machine to machine: its numbers, and what they say."""
    if varies or CLOCK.match(line):
        line = NUMBER.sub("0", line)
        for word, other in WORDS.items():
            line = line.replace(word, other)
    return " ".join(line.split())


def missing(block, printed):
    """The first line of the page that was not printed, in order; None where all were."""
    lines = iter(comparable(line, block.varies) for line in printed.splitlines())
    for line in block.printed:
        if line != "..." and comparable(line, block.varies) not in lines:
            return line
    return None


def test_each_block_runs_and_prints_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    page = PAGE.read_text(encoding="utf-8")
    for block in blocks(page):
        is_command = block.kind == "console"
        printed = called(block.source) if is_command else ran(block.source, namespace)
        assert missing(block, printed) is None, f"{block.source}\nprinted\n{printed}"
    # What the page says of all machines: the states' shares add up to the ruler's regret.
    found, shares = namespace["found"], namespace["visits"] * namespace["cost"]
    assert shares.sum() == pytest.approx(found.greedy.regret, abs=1e-9)
    assert shares.min() > -1e-12
    # Tables are the same on all machines; only how long they took varies.
    constant, falling = rlkit.compare("rates", metric="exact/greedy_value").groups
    for group in (constant, falling):
        assert f"  {group.iqm.value:.4g}  [{group.iqm.low:.4g}, {group.iqm.high:.4g}]" in page
    assert constant.iqm.value < 0.8 * constant.optimum.value
    assert falling.iqm.value > 0.97 * falling.optimum.value


def test_a_line_that_is_not_printed_is_found():
    block = Block("console", "rlkit", ["a 1", "...", "b 2"])
    assert missing(block, "a 1\nx\nb 2\n") is None
    assert missing(block, "a 1\nx\nb 3\n") == "b 2"
    assert missing(block, "b 2\na 1\n") == "b 2"  # in another order
    block.varies = True
    assert missing(block, "a 7.25\nb -1e-3\n") is None
    assert missing(block, "a 7.25\n") == "b 2"
