"""Checkpoints: bits come back, damage is found, no moment of failure loses the last good one."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import random
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlkit.errors import CheckpointError, RlkitWarning
from rlkit.run import raw
from rlkit.run.checkpoint import load_checkpoint, mark_best, save_checkpoint

ABOUT = {"agent": "a2c", "action_space": "Discrete(2)"}
TREE = {"w": torch.arange(6.0), "rng": np.arange(3), "ring": torch.arange(100), "steps": 5}
FILES = ["tensors.safetensors", "state.json", "raw-0000", "manifest.json"]
LARGE = 64  # bytes


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees of a few bytes have raw files too, and nobody waits for the disk."""
    monkeypatch.setattr(raw, "LARGE", LARGE)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def same(a: Any, b: Any) -> bool:
    """Equal in type, dtype, shape and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        # an empty tensor can't be viewed as bytes
        bits = [x.contiguous().flatten().view(torch.uint8) for x in (a, b) if x.numel()]
        return not bits or torch.equal(*bits)
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return math.isnan(a) == math.isnan(b) and (math.isnan(a) or repr(a) == repr(b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(
            type(k) is type(j) and same(a[k], b[k]) for k, j in zip(a, b, strict=True)
        )
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def forge(checkpoint: Path, name: str, data: bytes) -> None:
    """Replace a file and make the manifest agree, as somebody with bad intent would."""
    (checkpoint / name).unlink()  # it may be another checkpoint's file too
    (checkpoint / name).write_bytes(data)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    sign(checkpoint, manifest)


def sign(checkpoint: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest whose checksum is right."""
    unsigned = {name: value for name, value in manifest.items() if name != "sha256"}
    text = json.dumps(unsigned, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps({**unsigned, "sha256": digest}))


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


# What is saved comes back


ARRAYS = hnp.arrays(
    st.sampled_from(["?", "u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
LEAVES = st.one_of(
    ARRAYS,
    ARRAYS.map(lambda array: torch.from_numpy(array.copy())),
    ARRAYS.filter(lambda array: array.size > 0).map(lambda array: array.reshape(-1)[0]),
    ARRAYS.map(lambda array: torch.from_numpy(array.copy()).to(torch.bfloat16)),
    st.none() | st.booleans() | st.integers(-(2**130), 2**130) | st.text(max_size=5),
    st.floats(),
)
KEYS = st.text(max_size=3) | st.sampled_from(
    ["a", "b", "a/b", "$tensor", "__metadata__", "\udcff", "0", 0, 7]
)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(KEYS, inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(tree=TREES)
def test_a_tree_comes_back_bit_for_bit(tree: dict[Any, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(folder, 10, tree, ABOUT)
        loaded = load_checkpoint(folder)
        assert same(loaded.tree, tree)
        assert (loaded.path, loaded.step, loaded.about) == (path, 10, ABOUT)


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int64, torch.float64, torch.bfloat16, torch.float16],
)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3)])
def test_dtypes_and_shapes_of_tensors(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensor = torch.randint(0, 2, shape).to(dtype)
    save_checkpoint(tmp_path, 1, {"x": tensor}, {})
    assert same(load_checkpoint(tmp_path).tree, {"x": tensor})


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_a_generator_goes_on_with_the_same_numbers(tmp_path: Path, kind: str) -> None:
    generator = np.random.Generator(getattr(np.random, kind)(7))
    generator.integers(100, size=5)
    save_checkpoint(
        tmp_path,
        1,
        {
            "numpy": generator.bit_generator.state,
            "python": random.getstate(),
            "torch": torch.get_rng_state(),
        },
        {},
    )
    tree = load_checkpoint(tmp_path).tree
    restored = np.random.Generator(getattr(np.random, kind)(0))
    restored.bit_generator.state = tree["numpy"]
    assert (restored.random(50) == generator.random(50)).all()
    wanted = random.random()
    random.setstate(tree["python"])
    assert random.random() == wanted
    expected = torch.rand(3)
    torch.set_rng_state(tree["torch"])
    assert torch.equal(torch.rand(3), expected)


def test_keys_that_would_share_a_name_are_kept_apart(tmp_path: Path) -> None:
    one, two = torch.zeros(1), torch.ones(1)
    tree = {"a/b": one, "a": {"b": two}, "0": one, 0: two, "__metadata__": one}
    save_checkpoint(tmp_path, 1, tree, {})
    assert same(load_checkpoint(tmp_path).tree, tree)


def test_an_optimizer_goes_on(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path, 1, {"optimizer": optimizer.state_dict(), "w": weight}, {})
    tree = load_checkpoint(tmp_path).tree
    other = torch.nn.Parameter(tree["w"].clone())
    restored = torch.optim.Adam([other], lr=7.0)
    restored.load_state_dict(tree["optimizer"])
    for parameter, stepper in ((weight, optimizer), (other, restored)):
        parameter.grad = torch.full((3,), 0.3)
        stepper.step()
    assert torch.equal(weight, other)


def test_tensors_that_share_memory_or_are_not_contiguous(tmp_path: Path) -> None:
    flat = torch.arange(24.0)
    fixed = np.arange(4)
    fixed.flags.writeable = False
    tree = {
        "flat": flat,
        "view": flat[:12].view(3, 4),
        "tied": flat,
        "transposed": flat.view(4, 6).T,
        "expanded": torch.ones(1).expand(5),
        "conjugate": torch.tensor([1 + 2j], dtype=torch.complex64).conj(),
        "backwards": np.arange(5)[::-1],
        "fixed": fixed,
    }
    save_checkpoint(tmp_path, 1, tree, {})
    loaded = load_checkpoint(tmp_path).tree
    for name, value in tree.items():
        plain = value.resolve_conj() if isinstance(value, torch.Tensor) else value
        assert same(loaded[name], plain)


def test_changing_what_was_loaded_leaves_the_checkpoint_alone(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, TREE, {})
    loaded = load_checkpoint(tmp_path).tree
    loaded["w"].zero_()
    loaded["rng"][:] = -1
    loaded["ring"].fill_(7)
    assert same(load_checkpoint(tmp_path).tree, TREE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "a/b: a object can't be saved"),
        ({3}, "a/b: a set can't be saved"),
        (b"x", "a/b: a bytes can't be saved"),
        (np.array(["x"]), "a/b: an array of dtype <U1 can't be saved"),
        (np.array([object()]), r"a/b: an array of dtype \|O can't be saved"),
        (np.zeros(2, ">f8"), "a/b: an array of dtype >f8 can't be saved"),
        ({None: 1}, "a/b: a dict with the key None can't be saved"),
        (torch.zeros(2, dtype=torch.complex128), "can't be saved"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path: Path, value: object, message: str) -> None:
    save_checkpoint(tmp_path, 1, TREE, {})
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(tmp_path, 2, {"a": {"b": value}}, {})
    assert names(tmp_path) == ["000000000001", "latest"]
    assert load_checkpoint(tmp_path).step == 1


# Which checkpoints there are


def test_the_last_few_and_the_best_are_kept(tmp_path: Path) -> None:
    mark_best(save_checkpoint(tmp_path, 100, TREE, ABOUT))
    for step in (200, 300, 400, 500):
        save_checkpoint(tmp_path, step, TREE, ABOUT)
    steps = ["000000000100", "000000000300", "000000000400", "000000000500"]
    assert names(tmp_path) == [*steps, "best", "latest"]
    assert (tmp_path / "checkpoints" / "latest").read_text() == "000000000500"
    assert load_checkpoint(tmp_path).step == 500
    assert load_checkpoint(tmp_path, best=True).step == 100
    mark_best(save_checkpoint(tmp_path, 600, TREE, ABOUT, keep=1))
    assert names(tmp_path) == ["000000000100", "000000000600", "best", "latest"]
    save_checkpoint(tmp_path, 700, TREE, ABOUT, keep=1)
    assert names(tmp_path) == ["000000000600", "000000000700", "best", "latest"]


def test_without_a_best_one_the_newest_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 100, TREE, ABOUT)
    with pytest.warns(RlkitWarning, match=r"best: not written yet.*; took .*000000000100 instead"):
        assert load_checkpoint(tmp_path, best=True).step == 100


def test_a_pointer_cannot_lead_out_of_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_checkpoint(tmp_path, 1, TREE, ABOUT)
    save_checkpoint(run, 100, TREE, ABOUT)
    (run / "checkpoints" / "best").write_text("../../checkpoints/000000000001")
    with pytest.warns(RlkitWarning, match=r"best: not written yet, or changed .*; took .*100 ins"):
        assert load_checkpoint(run, best=True).step == 100


def test_a_step_saved_twice_replaces_the_first(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 100, {"x": 1}, ABOUT)
    assert save_checkpoint(tmp_path, 100, {"x": 2}, ABOUT).name == "000000000100-1"
    assert names(tmp_path) == ["000000000100-1", "latest"]
    assert load_checkpoint(tmp_path).tree == {"x": 2}
    mark_best(save_checkpoint(tmp_path, 100, {"x": 3}, ABOUT))
    save_checkpoint(tmp_path, 100, {"x": 4}, ABOUT)
    assert load_checkpoint(tmp_path, best=True).tree == {"x": 3}
    assert load_checkpoint(tmp_path).tree == {"x": 4}


def test_going_on_from_an_earlier_checkpoint_ends_the_later_history(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        save_checkpoint(tmp_path, step, {"x": step}, ABOUT)
    save_checkpoint(tmp_path, 150, {"x": 150}, ABOUT)
    assert names(tmp_path) == ["000000000100", "000000000150", "latest"]
    assert load_checkpoint(tmp_path).tree == {"x": 150}


def test_one_checkpoint_is_loaded_by_its_own_folder(tmp_path: Path) -> None:
    first = save_checkpoint(tmp_path, 100, TREE, ABOUT)
    save_checkpoint(tmp_path, 200, TREE, ABOUT)
    assert load_checkpoint(first).step == 100
    with pytest.raises(CheckpointError, match="000000000300"):
        load_checkpoint(tmp_path / "checkpoints" / "000000000300")


def test_a_run_without_checkpoints_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)


def test_another_agent_and_other_spaces_are_shown(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, TREE, ABOUT)
    checkpoint = load_checkpoint(tmp_path)
    checkpoint.expect(ABOUT)
    with pytest.raises(CheckpointError, match="holds the agent a2c, but dqn is wanted"):
        checkpoint.expect({**ABOUT, "agent": "dqn"})
    with pytest.raises(CheckpointError, match=r"action space Discrete\(2\), but Discrete\(3\)"):
        checkpoint.expect({**ABOUT, "action_space": "Discrete(3)"})


# Damage


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["half", "empty", "missing", "longer", "zeros"])
def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path: Path, name: str, how: str) -> None:
    save_checkpoint(tmp_path, 100, TREE, ABOUT)
    newest = save_checkpoint(tmp_path, 200, TREE, ABOUT)
    data = (newest / name).read_bytes()
    (newest / name).unlink()  # the older one may share it
    if how != "missing":
        changed = {"half": data[: len(data) // 2], "empty": b"", "longer": data + b"\n x"}
        (newest / name).write_bytes(changed.get(how, bytes(len(data))))
    with pytest.warns(RlkitWarning, match=rf"{name}: .*; took .*000000000100 instead"):
        assert load_checkpoint(tmp_path).step == 100
    with pytest.raises(CheckpointError, match=name) as refused:
        load_checkpoint(newest)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_found_or_harmless(tmp_path: Path, name: str) -> None:
    checkpoint = save_checkpoint(tmp_path, 100, TREE, ABOUT)
    data = (checkpoint / name).read_bytes()
    found = 0
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        (checkpoint / name).write_bytes(flipped)
        try:
            loaded = load_checkpoint(checkpoint)
        except CheckpointError as error:
            found += name in str(error)
        else:  # white space in the manifest
            assert same(loaded.tree, TREE)
            assert (loaded.step, loaded.about) == (100, ABOUT)
    assert found == len(data) if name != "manifest.json" else found > len(data) / 2


def test_when_nothing_is_whole_every_file_is_named(tmp_path: Path) -> None:
    for step in (100, 200):
        (save_checkpoint(tmp_path, step, TREE, ABOUT) / "state.json").write_text("")
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole: .*200.*000000000100"):
        load_checkpoint(tmp_path)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", FILES[:3])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_pickle_is_never_executed(tmp_path: Path, name: str, form: str) -> None:
    payload = tmp_path / "executed"
    if form == "pickle":
        data = pickle.dumps(Payload(payload))
    else:
        torch.save(Payload(payload), tmp_path / "x")
        data = (tmp_path / "x").read_bytes()
    checkpoint = save_checkpoint(tmp_path, 100, TREE, ABOUT)
    forge(checkpoint, name, data)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(checkpoint)
    assert not payload.exists()


@pytest.mark.parametrize(
    "declared",
    [
        {"w": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}},
        {"w": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 24]}},
        {"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}},
        {"w": {"dtype": "F32", "shape": [6], "data_offsets": [0, 20]}},
    ],
)
def test_a_small_file_that_declares_much_is_refused(
    tmp_path: Path, declared: dict[str, Any]
) -> None:
    checkpoint = save_checkpoint(tmp_path, 100, {"w": torch.zeros(6)}, ABOUT)
    header = json.dumps(declared).encode()
    forge(checkpoint, "tensors.safetensors", len(header).to_bytes(8, "little") + header + bytes(24))
    with pytest.raises(CheckpointError, match=r"tensors\.safetensors: not a whole safetensors"):
        load_checkpoint(checkpoint)


def test_a_header_longer_than_its_file_is_refused(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path, 100, {"w": torch.zeros(6)}, ABOUT)
    forge(checkpoint, "tensors.safetensors", (2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match=r"tensors\.safetensors: not a whole safetensors"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "state",
    [
        '{"w": {"$tensor": "elsewhere"}}',
        '{"w": {"$call": "os.system"}}',
        '{"w": {"$items": 3}}',
        '{"w": {"$float": 1' + "0" * 400 + "}}",
        '{"w": NaN}',
        "[1]",
        '{"w":' + "[" * 100_000,
    ],
)
def test_a_forged_tree_is_refused(tmp_path: Path, state: str) -> None:
    checkpoint = save_checkpoint(tmp_path, 100, {"w": torch.zeros(6)}, ABOUT)
    forge(checkpoint, "state.json", state.encode())
    with pytest.raises(CheckpointError, match=r"state\.json"):
        load_checkpoint(checkpoint)


def test_a_newer_format_is_said(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path, 100, TREE, ABOUT)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    sign(checkpoint, {**manifest, "format": 9})
    with pytest.raises(CheckpointError, match="format 9, this rlkit reads 1 to 2"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "changed",
    [
        *({"about": 1}, {"step": None}, {"step": "x"}, {"about": [1]}, {"files": 1}),
        *({"files": {"state.json": 1}}, {"files": {"../x": {"bytes": 1, "sha256": "0"}}}),
    ],
)
def test_a_forged_manifest_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    checkpoint = save_checkpoint(tmp_path, 100, TREE, ABOUT)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    sign(checkpoint, {**manifest, **changed})
    with pytest.raises(CheckpointError, match=r"manifest\.json: not a manifest of rlkit's"):
        load_checkpoint(checkpoint)


# Failure while saving


def test_every_file_is_synced_before_the_folder_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def recorded_fsync(descriptor: int) -> None:
        events.append("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def recorded_rename(old: Path, new: Path) -> None:
        events.append("rename to " + new.name)
        rename(old, new)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name what is synced")
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    save_checkpoint(tmp_path, 100, TREE, ABOUT)
    named = events.index("rename to 000000000100")
    assert {*(f"sync {name}" for name in FILES), "sync .tmp-new"} == set(events[:named])
    assert events[named + 1] == "sync checkpoints"


def child(script: str, *arguments: object) -> list[str]:
    """Run a script in a process of its own; the lines it printed."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    # a limit on the size of files stands in for the full disk: write() fails in the same places
    script = """
        import os, resource, sys, torch
        from rlkit.errors import CheckpointError
        from rlkit.run import raw
        from rlkit.run.checkpoint import load_checkpoint, save_checkpoint
        folder, raw.LARGE, os.fsync = sys.argv[1], 64, lambda descriptor: None
        save_checkpoint(folder, 100, {"w": torch.ones(10), "s": "x"}, {})
        for limit in range(0, 1500, 50):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                save_checkpoint(folder, 200 + limit, {"w": torch.ones(300), "s": "x" * 300}, {})
                print("saved", limit)
            except CheckpointError as error:
                print(error)
            assert load_checkpoint(folder).step in (100, 200 + limit)
    """
    lines = child(script, tmp_path)
    failed = [line for line in lines if "could not be saved" in line]
    assert len(failed) >= 20
    assert all("File too large" in line and "earlier checkpoints stand" in line for line in failed)
    assert any(line.startswith("saved") for line in lines)
    assert not [name for name in names(tmp_path) if name.startswith(".tmp")]


# Forks a child for each place, kills it there, and looks at what it left.
KILLED_AT_EACH_CALL = """
    import itertools, os, shutil, signal, sys, torch, warnings
    from rlkit.run import raw
    from rlkit.run.checkpoint import load_checkpoint, mark_best, save_checkpoint
    warnings.simplefilter("error")
    folder, new, raw.LARGE = sys.argv[1], int(sys.argv[2]), 64
    os.fsync = lambda descriptor: None  # what is written outlives the process
    calls = itertools.count(1)
    WATCHED = ("open", "os.rename", "os.mkdir", "os.link")
    ANYWHERE = ("fsync", "os.remove", "os.rmdir", "shutil.rmtree")  # these may name no folder

    def die_at(last):
        def count(event=None, arguments=()):
            if event in ANYWHERE or event in WATCHED and folder in str(arguments[0]):
                if next(calls) == last:
                    os.kill(os.getpid(), signal.SIGKILL)
        fsync = os.fsync
        def counted(descriptor):
            count("fsync")
            fsync(descriptor)
        os.fsync = counted
        sys.addaudithook(count)

    def save(step):
        tree = {"x": torch.full((1000,), step), "y": step, "same": torch.arange(1000)}
        path = save_checkpoint(folder, step, tree, {}, keep=2)
        if step % 200 == 0:
            mark_best(path)

    for place in range(1, 200):
        shutil.rmtree(folder)
        os.mkdir(folder)
        for step in (100, 200, 300):
            save(step)
        pid = os.fork()
        if pid == 0:
            die_at(place)
            save(new)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        loaded = load_checkpoint(folder)
        assert loaded.step in (300, new), (place, loaded)
        assert loaded.tree["y"] == loaded.step and (loaded.tree["x"] == loaded.step).all()
        assert torch.equal(loaded.tree["same"], torch.arange(1000))
        assert load_checkpoint(folder, best=True).step in (200, new)
        save(500)
        assert load_checkpoint(folder).step == 500
        left = [name for name in os.listdir(folder + "/checkpoints") if name.startswith(".tmp")]
        assert not left, (place, left)
        print(place, loaded.step)
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("step", [400, 250], ids=["going on", "gone back"])
def test_kill_9_at_every_call_leaves_a_complete_checkpoint(tmp_path: Path, step: int) -> None:
    (tmp_path / "run").mkdir()
    outcomes = [line.split() for line in child(KILLED_AT_EACH_CALL, tmp_path / "run", step)]
    loaded = [int(newest) for _, newest in outcomes]
    assert 15 < len(loaded) < 199  # it was killed at each call, and came through in the end
    before = loaded.count(300)
    assert loaded == [300] * before + [step] * (len(loaded) - before)
    assert loaded[-1] == step


KILLED_AT_EACH_BYTE = """
    import os, resource, signal, sys, torch
    from rlkit.run import raw
    from rlkit.run.checkpoint import load_checkpoint, save_checkpoint
    folder, raw.LARGE, os.fsync = sys.argv[1], 64, lambda descriptor: None
    tree = {"same": torch.arange(70), "x": torch.arange(100), "y": "y" * 900}
    save_checkpoint(folder, 100, tree, {})
    for limit in range(0, 1200, 7):
        pid = os.fork()
        if pid == 0:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            save_checkpoint(folder, 200, tree | {"x": torch.arange(1, 101)}, {})
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        print("killed" if os.WIFSIGNALED(status) else "saved", load_checkpoint(folder).step)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_inside_a_write_leaves_a_complete_checkpoint(tmp_path: Path) -> None:
    # the kernel kills the child when a file grows beyond a limit: at any byte, in Rust's writes too
    lines = child(KILLED_AT_EACH_BYTE, tmp_path)
    assert lines.count("killed 100") > 100
    assert lines[-1] == "saved 200"
    assert set(lines) <= {"killed 100", "saved 200"}


def test_leftovers_of_killed_saves_are_cleared(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 100, TREE, ABOUT)
    (tmp_path / "checkpoints" / ".tmp-new").mkdir()
    (tmp_path / "checkpoints" / ".tmp-new" / "state.json").write_text("{")
    (tmp_path / "checkpoints" / ".tmp-latest").write_text("0000")
    save_checkpoint(tmp_path, 200, TREE, ABOUT)
    assert names(tmp_path) == ["000000000100", "000000000200", "latest"]


def test_an_interrupt_while_saving_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    save_checkpoint(tmp_path, 100, TREE, ABOUT)
    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 200, TREE, ABOUT)
    assert names(tmp_path) == ["000000000100", "latest"]
