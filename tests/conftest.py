"""What all tests share."""

import warnings
from dataclasses import dataclass

import pytest
import torch

from rlkit.cli import main


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors are slower, and sums less reproducible, on several threads."""
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Called:
    """What a call of the command line came to."""

    status: int
    out: str
    err: str

    @property
    def warnings(self):
        return [line for line in self.err.splitlines() if line.startswith("Warning: ")]

    @property
    def error(self):
        """The one line, besides warnings, that standard error holds after a failure."""
        (line,) = [line for line in self.err.splitlines() if line not in self.warnings]
        assert line.startswith("Error: ")
        return line.removeprefix("Error: ")


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Call `rlkit` in an empty folder, as a process of its own would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*args):
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            with pytest.raises(SystemExit) as end:
                main([str(arg) for arg in args])
        return Called(end.value.code, *capsys.readouterr())

    return call


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no CUDA device")
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(skip)
