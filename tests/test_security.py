"""Nothing in the sources executes data, be it a pickle or text: a walk over imports and calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MODULES = {"pickle", "cPickle", "_pickle", "pickletools", "dill", "cloudpickle", "joblib"}
MODULES |= {"marshal", "shelve", "jsonpickle", "hickle", "yaml", "torch.package"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {"torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "os.system", "os.popen"}
CALLS |= {"torch.serialization.load", "pandas.read_pickle", "builtins.eval", "builtins.exec"}
SAFE = "allow_pickle=False"
CLOSED = {"numpy.load", "numpy.savez", "numpy.savez_compressed", "numpy.save"}  # but with SAFE
SWITCHES = {"allow_pickle=True", "shell=True", "weights_only=False"}


def imported(tree: ast.AST) -> dict[str, str]:
    """What the names that a module imports stand for: np → numpy, load → torch.load."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def meant(node: ast.AST, names: dict[str, str]) -> str:
    """The dotted name that an expression stands for; "" where it is none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        inner = meant(node.value, names)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def offences(source: str) -> Iterator[tuple[int, str]]:
    """(line, what) of all that executes data, or could."""
    tree = ast.parse(source)
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            parts = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                parts = [f"{node.module}.{part}" for part in parts]
            for part in parts:
                if any(f"{part}.".startswith(f"{module}.") for module in MODULES):
                    yield node.lineno, part
        elif isinstance(node, (ast.Name, ast.Attribute)):
            name = meant(node, names)
            # a field of that name stores; it looks nothing up
            is_read = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
            if name in CALLS or (is_read and name in BUILTINS):
                yield node.lineno, name
        elif isinstance(node, ast.Call) and meant(node.func, names) in CLOSED:
            if SAFE not in map(ast.unparse, node.keywords):
                yield node.lineno, f"{meant(node.func, names)} without {SAFE}"
        elif isinstance(node, ast.keyword) and ast.unparse(node) in SWITCHES:
            yield node.value.lineno, ast.unparse(node)


def test_nothing_in_the_sources_executes_data() -> None:  # faults 39 and 40
    sources = [path for top in ("rlkit", "agents", "envs") for path in (ROOT / top).rglob("*.py")]
    assert len(sources) > 50
    found = {
        f"{path.relative_to(ROOT)}:{line} {what}"
        for path in sources
        for line, what in offences(path.read_text(encoding="utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "import pickle as p", "import json, shelve", "from joblib.x import y"),
        *("import dill.source", "from torch import package", "from cloudpickle import dumps"),
        *("import torch; torch.load('x')", "import torch as t; t.save(1, 'x')"),
        *("from torch import load; load('x')", "from torch import load as f; g = f"),
        *("eval('1')", "f = exec", "__import__('x')", "from os import system; system('x')"),
        *("import numpy as np; np.load('x')", "from numpy import load; load('x')"),
        *("import numpy as np; np.load('x', allow_pickle=True)", "f(weights_only=False)"),
        *("import numpy as np; np.savez('x', a=1)", "subprocess.run('x', shell=True)"),
        "def f():\n    import marshal",
    ],
)
def test_what_is_looked_for_is_found(line: str) -> None:
    assert list(offences(line))


@pytest.mark.parametrize(
    "line",
    [
        *("model.eval()", "import numpy as np; np.load('x', allow_pickle=False)", "json.load(f)"),
        *("from safetensors.torch import load_file", "import ast; ast.literal_eval('1')"),
        *("self.load(x)", "re.compile('x')", "import re; re.compile('x')"),
        "class Options:\n    compile: bool = False",
    ],
)
def test_what_is_allowed_is_not(line: str) -> None:
    assert not list(offences(line))
