"""Checkpoints of much: raw files, links to what did not change, and formats that came before."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file
from small_runs import SMALL, leaves
from test_checkpoint import forge, same

import rlkit
from rlkit.errors import CheckpointError, RlkitWarning
from rlkit.experience import blocks
from rlkit.experience.replay import Replay, Sampling
from rlkit.experience.step import Step
from rlkit.run import raw
from rlkit.run.checkpoint import load_checkpoint, mark_best, save_checkpoint
from rlkit.run.manifest import read_manifest
from rlkit.run.migrations import FORMAT, MIGRATIONS, migrated

FORMAT_1 = Path(__file__).parent / "data" / "format-1"
LARGE, BLOCK = 64, 256  # bytes


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "LARGE", LARGE)
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def ring(*values: int) -> dict[str, Any]:
    """A tree of blocks of 80 bytes, and a weight."""
    return {"blocks": [torch.full((10,), value) for value in values], "w": torch.ones(3)}


def inodes(checkpoint: Path) -> list[int]:
    return [path.stat().st_ino for path in sorted(checkpoint.glob("raw-*"))]


def in_place(path: Path) -> None:
    """Damage a file as a disk would: whoever shares it shares the damage."""
    with path.open("r+b") as file:
        file.write(b"\xff")


# Raw files


@pytest.mark.parametrize("dtype", raw._DTYPES.values(), ids=str)
def test_every_dtype_comes_back_from_a_raw_file(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(240, dtype=torch.uint8).view(torch.uint8)[:192]
    tensor = (tensor % 2 if dtype == torch.bool else tensor).view(dtype).reshape(2, 1, -1)
    save_checkpoint(tmp_path, 1, {"x": tensor}, {})
    path = tmp_path / "checkpoints" / "000000000001" / "raw-0000"
    assert path.read_bytes() == bytes(tensor.flatten().view(torch.uint8).tolist())
    assert same(load_checkpoint(tmp_path).tree, {"x": tensor})


def test_what_is_loaded_maps_its_file(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, ring(1, 2), {})
    tree = load_checkpoint(tmp_path).tree
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    mapped = [line.split()[-1] for line in maps.read_text().splitlines()]
    assert {str(path / "raw-0000"), str(path / "raw-0001")} <= set(mapped)
    assert same(tree, ring(1, 2))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shape": [20]}, "raw-0000 is 80 bytes, of which a tensor of 160 is made"),
        ({"shape": [5]}, "raw-0000 is 80 bytes, of which a tensor of 40 is made"),
        ({"shape": [10**15]}, "of which a tensor of 8000000000000000 is made"),
        ({"shape": [2**62, 2**62]}, "raw-0000 is 80 bytes"),
        ({"shape": [-10]}, r"has the shape \[-10\]"),
        ({"shape": [-2, -5]}, r"has the shape \[-2, -5\]"),
        ({"shape": [2**70, 0]}, "has the shape"),
        ({"shape": [10.0]}, "has the shape"),
        ({"shape": [True, 10]}, "has the shape"),
        ({"shape": []}, "has the shape"),
        ({"shape": [10, *[1] * 1000]}, "state.json"),
        ({"shape": 10}, "TypeError"),
        ({"shape": None}, "has the shape"),
        ({"dtype": "float64", "shape": [11]}, "of which a tensor of 88 is made"),
        ({"dtype": "object"}, "'object'"),
        ({"dtype": "Tensor"}, "'Tensor'"),
        ({"dtype": ["int64"]}, "unhashable"),
        ({"file": "raw-0007"}, "manifest.json: says nothing of the file raw-0007"),
        ({"file": "../../x"}, r"manifest.json: says nothing of the file ../../x"),
        ({"file": None}, "manifest.json: says nothing of the file None"),
        ({"file": []}, "unhashable"),
    ],
)
def test_a_forged_description_is_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    checkpoint = save_checkpoint(tmp_path, 1, {"x": np.arange(10)}, {})
    told = json.loads((checkpoint / "state.json").read_text())
    assert told["x"]["$array"] == {"file": "raw-0000", "dtype": "int64", "shape": [10]}
    told["x"]["$array"] |= changed
    forge(checkpoint, "state.json", json.dumps(told).encode())
    with pytest.raises(CheckpointError, match=message) as refused:
        load_checkpoint(checkpoint)
    assert len(str(refused.value).splitlines()) == 1


def test_a_part_is_loaded_without_the_others(tmp_path: Path) -> None:
    tree = {"agent": {"weights": {"w": torch.ones(20)}, "memory": torch.arange(50)}, "x": 3}
    checkpoint = save_checkpoint(tmp_path, 1, tree, {})
    (memory,) = (path for path in checkpoint.glob("raw-*") if path.stat().st_size == 400)
    memory.unlink()
    loaded = load_checkpoint(tmp_path, part=("agent", "weights"))
    assert same(loaded.tree, tree["agent"]["weights"])
    with pytest.raises(CheckpointError, match=memory.name):
        load_checkpoint(tmp_path)
    for part in (("agent", "none"), ("x", "y"), ("x",)):
        with pytest.raises(CheckpointError, match=r"state\.json"):
            load_checkpoint(checkpoint, part=part)


# Links


def test_what_did_not_change_is_linked_and_each_folder_is_complete(tmp_path: Path) -> None:
    first = save_checkpoint(tmp_path, 1, ring(1, 2, 3), {})
    second = save_checkpoint(tmp_path, 2, ring(1, 7, 3), {})
    third = save_checkpoint(tmp_path, 3, ring(3, 1, 7, 8), {})  # wherever they stand
    one, two, three = map(inodes, (first, second, third))
    assert two[0] == one[0]
    assert two[1] not in one
    assert two[2] == one[2]
    assert three[:3] == [two[2], two[0], two[1]]
    assert three[3] not in one + two
    moved = tmp_path / "alone"
    shutil.copytree(third, moved)
    shutil.rmtree(first)
    shutil.rmtree(third)
    assert same(load_checkpoint(tmp_path).tree, ring(1, 7, 3))
    assert same(load_checkpoint(moved).tree, ring(3, 1, 7, 8))


@pytest.mark.parametrize("how", ["changed", "shorter", "longer", "missing", "a link", "a folder"])
def test_no_link_is_made_to_what_is_not_as_it_was(tmp_path: Path, how: str) -> None:
    first = save_checkpoint(tmp_path, 1, ring(1, 2), {})
    damaged = first / "raw-0000"
    data = damaged.read_bytes()
    if how == "changed":
        in_place(damaged)
    elif how == "shorter":
        os.truncate(damaged, 40)
    elif how == "longer":
        damaged.write_bytes(data + b"x")
    else:
        damaged.unlink()
    if how == "a link":
        (tmp_path / "elsewhere").write_bytes(data)
        damaged.symlink_to(tmp_path / "elsewhere")
    elif how == "a folder":
        damaged.mkdir()
    second = save_checkpoint(tmp_path, 2, ring(1, 2), {})
    assert not (second / "raw-0000").is_symlink()
    assert (second / "raw-0000").stat().st_nlink == 1
    assert inodes(second)[1] == inodes(first)[-1]
    assert same(load_checkpoint(tmp_path).tree, ring(1, 2))


def test_a_damaged_manifest_has_nothing_linked(tmp_path: Path) -> None:
    first = save_checkpoint(tmp_path, 1, ring(1), {})
    (first / "manifest.json").write_text("{}")
    save_checkpoint(tmp_path, 2, ring(1), {})
    assert same(load_checkpoint(tmp_path).tree, ring(1))


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(old: Path, new: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    for step in (1, 2):
        path = save_checkpoint(tmp_path, step, ring(1, 2), {})
        assert [x.stat().st_nlink for x in path.glob("raw-*")] == [1, 1]
    assert same(load_checkpoint(tmp_path).tree, ring(1, 2))


def test_shared_damage_is_named_and_ends_with_the_next_save(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, ring(1, 2), {})
    second = save_checkpoint(tmp_path, 2, ring(1, 2), {})
    in_place(second / "raw-0001")
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole: .*2/raw-0001: .*1/raw-00"):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, 3, ring(1, 2), {})
    assert same(load_checkpoint(tmp_path).tree, ring(1, 2))


# Replay memories


def memory_of(rows: int) -> Replay:
    """A memory of 2 environments that takes `rows` rows in all."""
    space = spaces.Box(-1, 1, (4,), np.float32)
    sampling = Sampling(0, 1, 1, 4, 1, 0.9)
    generator = torch.Generator().manual_seed(0)
    memory = Replay(
        *(2 * (rows - 1), 2, space, spaces.Discrete(3), sampling, torch.device("cpu"), generator)
    )
    memory.allocate()
    return memory


def feed(memory: Replay, steps: range) -> None:
    for t in steps:
        obs, following = (np.full((2, 4), x, np.float32) for x in (t, t + 1))
        flags = np.zeros(2, bool), np.zeros(2, bool), np.ones(2, bool)
        memory.add(Step(obs, np.full(2, t % 3), np.full(2, t, np.float32), *flags, following))


@pytest.mark.parametrize("steps", [5, 39, 40, 57, 100])
def test_a_memory_is_saved_in_blocks_and_comes_back(tmp_path: Path, steps: int) -> None:
    memory = memory_of(41)
    feed(memory, range(steps))
    checkpoint = save_checkpoint(tmp_path, 1, {"memory": memory.get_state()}, {})
    used = min(steps + 1, 41)
    obs = memory.get_state()["rows"]["obs"]
    assert [len(block) for block in obs] == [8] * (used // 8) + [used % 8] * (used % 8 > 0)
    assert len(list(checkpoint.glob("raw-*"))) >= used // 8
    other = memory_of(41)
    other.set_state(load_checkpoint(tmp_path).tree["memory"])
    assert leaves(other.get_state()) == leaves(memory.get_state())
    feed(memory, range(steps, steps + 9))
    feed(other, range(steps, steps + 9))
    assert leaves(other.get_state()) == leaves(memory.get_state())


def test_of_a_ring_only_the_rows_that_changed_are_written(tmp_path: Path) -> None:
    memory = memory_of(401)
    feed(memory, range(500))
    first = save_checkpoint(tmp_path, 1, {"memory": memory.get_state()}, {})
    feed(memory, range(500, 503))
    second = save_checkpoint(tmp_path, 2, {"memory": memory.get_state()}, {})
    new = len(set(inodes(second)) - set(inodes(first)))
    assert len(inodes(second)) > 60
    assert 1 <= new <= 6  # a block of each column, or two
    assert leaves(load_checkpoint(tmp_path).tree["memory"]) == leaves(memory.get_state())


@pytest.mark.parametrize("steps", [20, 60])
@pytest.mark.parametrize("rows", [11, 31, 51, 81])
def test_a_memory_of_another_size_is_refused_or_has_room(steps: int, rows: int) -> None:
    memory, other = memory_of(41), memory_of(rows)
    feed(memory, range(steps))
    state = memory.get_state()
    if steps < min(rows, 41):  # neither ring has gone around
        other.set_state(state)
        assert leaves(other.get_state()) == leaves(state)
    else:
        with pytest.raises(CheckpointError, match=r"the checkpoint's memory .* config\.json"):
            other.set_state(state)


@pytest.mark.parametrize("shape", [(8, 3), (8, 1), (8, 4, 1), (9, 4), (7, 4), (0, 4)])
def test_blocks_of_other_rows_are_refused(shape: tuple[int, ...]) -> None:
    column = torch.zeros(16, 4)
    blocks.fill(column, [torch.ones(8, 4), torch.ones(8, 4)])
    assert column.eq(1).all()
    with pytest.raises(CheckpointError, match="undo what was changed in it"):
        blocks.fill(column, [torch.ones(8, 4), torch.ones(shape)])
    with pytest.raises(CheckpointError, match="float64"):
        blocks.fill(column, [torch.ones(16, 4, dtype=torch.float64)])
    with pytest.raises(CheckpointError, match="holds 0 rows"):
        blocks.fill(column, [])


def test_a_damaged_memory_keeps_nobody_from_the_weights(cli: Any) -> None:
    told = ("dqn", "CartPole", *SMALL["dqn"], "--json")
    trained = cli("train", *told)
    assert trained.status == 0, trained.err
    run = Path(json.loads(trained.out)["run"])
    newest = sorted((run / "checkpoints").glob("0*"))[-1]
    state = json.loads((newest / "state.json").read_text())
    rows = state["agent"]["parts"]["memory"]["rows"]
    damaged = newest / rows["obs"][0]["$tensor"]["file"]
    data = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(bytes(len(data)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rlkit.load(run)
    assert cli("evaluate", run, "--episodes", 2).warnings == []
    resumed = cli("resume", run, "--steps", 300)
    assert resumed.status == 0, resumed.err
    (said,) = resumed.warnings
    assert said.startswith(f"Warning: {damaged}: changed since it was written (checksum); took ")


# Formats that came before


def test_there_is_a_way_from_every_format() -> None:
    assert sorted(MIGRATIONS) == list(range(1, FORMAT))


@pytest.mark.parametrize("agent", ["dqn", "r2d2"])
def test_a_checkpoint_of_format_1_is_read(agent: str) -> None:
    (path,) = (FORMAT_1 / agent / "checkpoints").glob("0*")
    assert read_manifest(path).format == 1
    loaded = load_checkpoint(FORMAT_1 / agent, best=True)
    assert (loaded.path, loaded.step) == (path, 36)
    saved = load_file(path / "tensors.safetensors")  # by names that are paths in the tree
    memory = loaded.tree["agent"]["parts"]["memory"]
    for name, column in memory["rows"].items():
        assert torch.equal(torch.cat(column), saved.pop(f"agent/parts/memory/rows/{name}"))
    for k, carry in enumerate(memory.get("carries", [])):
        assert torch.equal(torch.cat(carry), saved.pop(f"agent/parts/memory/carries/{k}"))
    assert not [name for name in saved if "/rows/" in name or "/carries/" in name]
    for name, weight in loaded.tree["agent"]["weights"].items():
        assert torch.equal(weight, saved[f"agent/weights/{name}"])


@pytest.mark.parametrize("agent", ["dqn", "r2d2"])
def test_a_run_of_format_1_goes_on(tmp_path: Path, agent: str) -> None:
    run = tmp_path / agent
    shutil.copytree(FORMAT_1 / agent, run)
    rlkit.load(run, best=True)
    assert rlkit.resume(run).steps == 60
    assert read_manifest(load_checkpoint(run).path).format == FORMAT


@pytest.mark.parametrize("parts", [{"memory": {"t": 3, "rows": {"obs": {"$array": "x"}}}}, {}])
def test_an_on_policy_agent_of_format_1_stays_as_it_was(parts: dict[str, Any]) -> None:
    document = {"agent": {"parts": parts}}
    assert migrated(copy.deepcopy(document), 1) == document


@pytest.mark.parametrize("document", [{}, {"agent": 1}, {"agent": {"parts": {"memory": [1]}}}])
def test_a_forged_document_of_format_1_is_no_crash(
    document: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(FORMAT_1 / "dqn", tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "000000000036"
    document = {**document, "x": {"$tensor": "nowhere"}}
    forge(checkpoint, "state.json", json.dumps(document).encode())
    with pytest.raises(CheckpointError, match=r"state\.json"):
        load_checkpoint(checkpoint)


# The mark of the best


def test_a_mark_that_changed_names_no_other_checkpoint(tmp_path: Path) -> None:
    mark_best(save_checkpoint(tmp_path, 100, ring(1), {}))
    newest = save_checkpoint(tmp_path, 300, ring(3), {})  # a bit away from 100
    assert load_checkpoint(tmp_path, best=True).step == 100
    mark = newest.parent / "best"
    data = mark.read_bytes()
    flipped = [
        data[:i] + bytes([data[i] ^ 1 << k]) + data[i + 1 :] for i in range(12) for k in range(8)
    ]
    for changed in (*flipped, data[:-1], data[:12], data + b"0", b"", newest.name.encode()):
        mark.write_bytes(changed)
        with pytest.warns(RlkitWarning, match="best: not written yet, or changed"):
            assert load_checkpoint(tmp_path, best=True).step == 300
