"""Whatever becomes of a run's files: what was saved comes back, or an error names the file."""

from __future__ import annotations

import copy
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import leaves
from test_checkpoint import forge, sign

import rlkit
from rlkit.errors import CheckpointError, RlkitWarning
from rlkit.experience import blocks
from rlkit.run import raw
from rlkit.run.checkpoint import Checkpoint, load_checkpoint

TOLD = {"values": "mean", "hidden": [4], "envs": 2, "steps": 300, "buffer_size": 100}
TOLD |= {"learning_starts": 40, "train_every": 8, "gradient_steps": 2, "batch_size": 16}
fuzzed = settings(max_examples=250, deadline=None, derandomize=True, database=None)


class Run:
    """A run of a small DQN: its checkpoints as they were written, and put back before each try."""

    def __init__(self, folder: Path) -> None:
        options = {"run_dir": str(folder), "eval_every": 20, "eval_episodes": 1, "seed": 4}
        self.path = rlkit.train("dqn", "CartPole", TOLD, options).run
        self.home = self.path / "checkpoints"
        self.saved = {path.name: load_checkpoint(path) for path in sorted(self.home.glob("0*"))}
        self.newest, self.older = sorted(self.saved)[::-1][:2]
        self.best = load_checkpoint(self.path, best=True).path.name
        self.files: dict[int, tuple[bytes, list[Path]]] = {}  # by inode: links stay links
        for path in sorted(self.home.rglob("*")):
            if path.is_file():
                found = self.files.setdefault(path.stat().st_ino, (path.read_bytes(), []))
                found[1].append(path)
        self.leaves = {name: leaves(saved.tree) for name, saved in self.saved.items()}

    def names(self) -> list[str]:
        """The files of the newest checkpoint, of the one before, and the pointers."""
        folders = (self.newest, self.older)
        inside = [f"{x}/{path.name}" for x in folders for path in sorted((self.home / x).iterdir())]
        return [*inside, "latest", "best"]

    def put_back(self) -> None:
        shutil.rmtree(self.home)
        for name in self.saved:
            (self.home / name).mkdir(parents=True)
        for data, (first, *others) in self.files.values():
            first.write_bytes(data)
            for other in others:
                os.link(first, other)

    def check(self, damaged: list[str], load: Callable[[], Checkpoint], wanted: str) -> str:
        """That `load` gives `wanted` as it was saved, an older one and says so, or an error."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                loaded = load()
            except CheckpointError as error:
                loaded, refusal = None, str(error)
        if loaded is None:
            assert any(Path(name).name in refusal for name in damaged), refusal
            assert len(refusal.splitlines()) == 1
            return "refused"
        assert leaves(loaded.tree) == self.leaves[loaded.path.name]
        assert loaded.step == int(loaded.path.name[:12])
        assert loaded.about == self.saved[loaded.path.name].about
        texts = [str(warning.message) for warning in said]
        assert all(warning.category is RlkitWarning for warning in said)
        if loaded.path.name == wanted and not texts:
            return "as it was"
        assert texts
        assert any(name in text for name in damaged for text in texts)
        assert all(text.endswith(f"; took {loaded.path} instead") for text in texts)
        return "another"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw, "LARGE", 200)
        patch.setattr(blocks, "BLOCK", 400)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield Run(tmp_path_factory.mktemp("fuzz"))


Damage = Callable[[bytes], bytes | None]  # None: the file is gone


def flipped(positions: list[float]) -> Damage:
    def damage(data: bytes) -> bytes:
        changed = bytearray(data)
        for position in positions:
            bit = int(position * len(data) * 8)
            changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    return damage


def zeroed(start: float) -> Damage:
    return lambda data: data[: int(start * len(data))].ljust(len(data), b"\0")


PLACE = st.floats(0, 1, exclude_max=True)
DAMAGES: st.SearchStrategy[Damage] = st.one_of(
    st.lists(PLACE, min_size=1, max_size=3, unique=True).map(flipped),
    PLACE.map(lambda end: lambda data: data[: int(end * len(data))]),
    PLACE.map(zeroed),
    st.binary(min_size=1, max_size=300).map(lambda more: lambda data: data + more),
    st.binary(max_size=300).map(lambda other: lambda data: other),
    st.just(lambda data: None),
)


def test_the_run_has_all_that_is_to_be_damaged(run: Run) -> None:
    assert run.best < run.newest
    names = {Path(name).name for name in run.names()}
    assert {"state.json", "tensors.safetensors", "manifest.json", "raw-0003", "best"} <= names
    assert any(len(paths) > 1 for _, paths in run.files.values())  # links
    for name, saved in run.saved.items():
        tree = saved.tree["agent"]
        assert tree["parts"]["memory"]["added"] == saved.step, name
    run.put_back()
    assert run.check([], lambda: load_checkpoint(run.path), run.newest) == "as it was"
    assert run.check([], lambda: load_checkpoint(run.path, best=True), run.best) == "as it was"


@fuzzed
@given(data=st.data(), damage=DAMAGES)
def test_a_damaged_file(run: Run, data: st.DataObject, damage: Damage) -> None:
    run.put_back()
    name = data.draw(st.sampled_from(run.names()))
    path = run.home / name
    changed = damage(path.read_bytes())
    if changed is None:
        path.unlink()
    else:
        path.write_bytes(changed)  # in place: in all checkpoints that share it
    check_all(run, [name])


@fuzzed
@given(data=st.data())
def test_two_files_that_changed_places(run: Run, data: st.DataObject) -> None:
    run.put_back()
    one, other = (data.draw(st.sampled_from(run.names())) for _ in range(2))
    between = run.home / "between"
    (run.home / one).rename(between)
    if one != other:
        (run.home / other).rename(run.home / one)
    between.rename(run.home / other)
    check_all(run, [one, other])


def check_all(run: Run, damaged: list[str]) -> None:
    newest = run.check(damaged, lambda: load_checkpoint(run.path), run.newest)
    if {"latest", "best"}.issuperset(damaged):
        assert newest == "as it was"
    run.check(damaged, lambda: load_checkpoint(run.path, best=True), run.best)
    alone = run.check(damaged, lambda: load_checkpoint(run.home / run.newest), run.newest)
    assert alone != "another"
    if all(Path(name).name.startswith("raw-") for name in damaged):
        part = load_checkpoint(run.path, part=("agent", "weights"))
        assert len(part.tree) > 5
        assert leaves(part.tree, "/agent/weights").items() <= run.leaves[run.newest].items()


# Forged files: the hashes are right, as anybody can write them


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -1, 0, 1, 10**18, 1e308, "raw-0000", "../x", "uint8", "$tensor"])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["$tensor", "$array", "$scalar", "$float", "$tuple", "$items", "$x"])
            | st.sampled_from(["file", "shape", "dtype", "a"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def places(node: Any) -> list[tuple[Any, Any]]:
    """All (container, key) in a JSON document."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    if isinstance(node, (dict, list)):
        for key, value in items:
            found.append((node, key))
            if isinstance(value, (dict, list)):
                found += places(value)
    return found


def replaced(data: st.DataObject, document: Any) -> Any:
    document = copy.deepcopy(document)
    container, key = data.draw(st.sampled_from(places(document)))
    container[key] = data.draw(JSON)
    return document


@fuzzed
@given(data=st.data(), name=st.sampled_from(["state.json", "tensors.safetensors", "manifest.json"]))
def test_a_forged_file_is_refused_or_harmless(run: Run, data: st.DataObject, name: str) -> None:
    run.put_back()
    checkpoint = run.home / run.newest
    content = (checkpoint / name).read_bytes()
    if name == "tensors.safetensors":
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.dumps(replaced(data, json.loads(content[8:end]))).encode()
        forge(checkpoint, name, len(header).to_bytes(8, "little") + header + content[end:])
    elif name == "state.json":
        forge(checkpoint, name, json.dumps(replaced(data, json.loads(content))).encode())
    else:
        sign(checkpoint, replaced(data, json.loads(content)))
    largest = max(path.stat().st_size for path in checkpoint.iterdir())
    try:
        tree = load_checkpoint(checkpoint).tree
    except CheckpointError:
        return
    for leaf in leaves(tree).values():
        if isinstance(leaf, tuple):
            assert len(leaf[2]) <= largest
