"""A run's folder: taken once, named safely, readable by what it says and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest

from rlkit.errors import UsageError
from rlkit.run.folder import RunFolder, list_runs, run_name

CONFIG = {"recipe": {"gamma": 0.99}, "seed": 1, "env": "CartPole-v1", "agent": "a2c"}


def test_create_numbers_the_folders_and_writes_config_and_env(tmp_path: Path) -> None:
    spec = gymnasium.spec("CartPole-v1")
    runs = [RunFolder.create(tmp_path, "a2c-CartPole-v1", CONFIG, spec.to_json()) for _ in "ab"]
    assert [run.path.name for run in runs] == ["a2c-CartPole-v1-0", "a2c-CartPole-v1-1"]
    config = json.loads((runs[0].path / "config.json").read_text())
    assert config == runs[0].config
    assert list(config) == ["format", "agent", "env", "seed", "recipe", "created", "versions"]
    assert config["recipe"] == {"gamma": 0.99}
    assert config["versions"]["gymnasium"] == gymnasium.__version__
    record = json.loads((runs[0].path / "env.json").read_text())
    assert record == json.loads(spec.to_json())
    assert sorted(os.listdir(runs[0].path)) == ["config.json", "env.json"]


def test_a_number_is_not_used_again_before_later_ones(tmp_path: Path) -> None:
    runs = [RunFolder.create(tmp_path, "x", CONFIG, None) for _ in range(4)]
    for run in runs[:3]:
        shutil.rmtree(run)
    assert RunFolder.create(tmp_path, "x", CONFIG, None).path.name == "x-4"


def test_an_infinity_in_the_env_spec_is_kept_as_text(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "x", CONFIG, '{"reward_threshold": Infinity}')
    record = json.loads((run.path / "env.json").read_text(), parse_constant=pytest.fail)
    assert record == {"reward_threshold": "Infinity"}


AT_ONCE = """
import os, sys
from pathlib import Path
from rlkit.run.folder import RunFolder
reading, writing = os.pipe()
children = []
for _ in range(50):
    children.append(os.fork())
    if children[-1] == 0:
        os.close(writing)
        os.read(reading, 1)  # until all have started: the parent closes the pipe
        run = RunFolder.create(Path(sys.argv[1]), "x", {"pid": os.getpid()}, None)
        os.write(1, f"{run.path} {os.getpid()}\\n".encode())
        os._exit(0)
os.close(writing)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fifty_runs_that_start_at_the_same_instant_get_a_folder_each(tmp_path: Path) -> None:
    command = [sys.executable, "-c", AT_ONCE, str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    taken = dict(line.split() for line in done.stdout.splitlines())
    assert {int(path.rpartition("-")[2]) for path in taken} == set(range(50))
    assert len(set(taken.values())) == 50
    for path, pid in taken.items():
        assert str(RunFolder.open(path).config["pid"]) == pid


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/tmp/x",
        "a\0b",
        "a/b",
        "a\\b",
        "",
        ".",
        "..",
        ".hidden",
        "-x",
        "a\nb",
        "a\x1b[31m",
        "x" * 101,
        "語" * 90,
        "a b",
        "\udcff",
    ],
)
def test_a_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    run_dir = tmp_path / "runs"
    with pytest.raises(UsageError, match=r"run name .* is not allowed") as refused:
        RunFolder.create(run_dir, name, CONFIG, None)
    assert len(str(refused.value).splitlines()) == 1
    assert not run_dir.exists()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "ALE/Pong-v5", "my.envs:Maze-v0", "x" * 300])
def test_every_env_id_makes_a_name_that_is_allowed(tmp_path: Path, env_id: str) -> None:
    run = RunFolder.create(tmp_path, run_name("dqn", env_id), CONFIG, None)
    assert run.path.parent == tmp_path


def test_a_folder_that_is_not_writable_is_said_with_path_and_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for run_dir in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(UsageError, match=r"not writable: .*file.*--run-dir"):
            RunFolder.create(run_dir, "x", CONFIG, None)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, which nobody can write")
def test_a_read_only_file_system_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run folder /proc/self is not writable"):
        RunFolder.create(Path("/proc/self"), "x", CONFIG, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, Path("x")])
def test_a_config_that_is_not_json_is_refused_before_anything_is_made(
    tmp_path: Path, value: object
) -> None:
    with pytest.raises(UsageError, match="config can't be written as JSON"):
        RunFolder.create(tmp_path / "runs", "x", {"lr": value}, None)
    assert not (tmp_path / "runs").exists()


def test_a_folder_whose_config_could_not_be_written_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        RunFolder.create(tmp_path, "x", CONFIG, None)
    assert os.listdir(tmp_path) == []


def test_open_takes_a_path_or_a_name(tmp_path: Path) -> None:
    made = RunFolder.create(tmp_path, "a2c-CartPole-v1", CONFIG, None)
    assert RunFolder.open(made.path) == made
    assert RunFolder.open("a2c-CartPole-v1-0", run_dir=tmp_path) == made
    assert RunFolder.open(str(made.path) + "/") == made


def test_open_says_which_runs_are_near(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "a2c-CartPole-v1", CONFIG, None)
    for path in ("a2c-CartPole-v1-1", tmp_path / "a2c-CartPol-v1-0"):
        with pytest.raises(UsageError, match=r"unknown run .* did you mean a2c-CartPole-v1-0"):
            RunFolder.open(path, run_dir=tmp_path)


def test_a_name_too_long_for_a_file_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run"):
        RunFolder.open("a" * 5000, tmp_path)


def test_open_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no run in .*rlkit train"):
        RunFolder.open("x", run_dir=tmp_path)
    with pytest.raises(UsageError, match=r"holds no config\.json"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 2}', "format 2, this rlkit reads 1"),
        ("{}", "format None"),
        ('{"format": 1, "lr": NaN}', "NaN is not a JSON number"),
        ('{"format": 1, "lr": -Infinity}', "-Infinity is not a JSON number"),
        ("[1]", "expected an object"),
        ('{"format": 1', "not JSON"),
        ('{"format": __import__("os").system("touch pwned")}', "not JSON"),
        ("[" * 200_000, "not JSON"),
        ('{"format": 1, "x": "' + "x" * (1 << 20) + '"}', "at most 1048576 are read"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_open_refuses_a_config_that_is_not_rlkits(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(UsageError, match=message) as refused:
        RunFolder.open(tmp_path)
    assert str(tmp_path / "config.json") in str(refused.value)
    assert os.listdir(tmp_path) == ["config.json"]


def test_list_runs_reads_what_there_is(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "a2c", CONFIG, None)
    returns = [*range(150)]
    lines = [{"step": 10 * i, "time": 0, "episode/return": r} for i, r in enumerate(returns)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.path / "metrics.jsonl").write_text(text + '{"step": 99999, "epis')
    os.utime(run.path / "metrics.jsonl", (1000, 1000))
    [summary] = list_runs(tmp_path)
    assert (summary.agent, summary.env, summary.steps) == ("a2c", "CartPole-v1", 1490)
    assert summary.last_return == sum(returns[-100:]) / 100
    assert summary.when == 1000


def test_list_runs_stands_damaged_folders(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []
    fresh = RunFolder.create(tmp_path, "fresh", CONFIG, None)
    (tmp_path / "not-a-run").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"format": 1, "agent": "a2')
    (tmp_path / "broken" / "metrics.jsonl").write_bytes(b"\0\0\n[1]\n{}\n")
    found = {summary.path: summary for summary in list_runs(tmp_path)}
    assert set(found) == {fresh.path, tmp_path / "broken"}
    assert found[fresh.path].steps is None
    assert found[fresh.path].last_return is None
    assert found[tmp_path / "broken"].agent is None


def test_the_folder_module_imports_neither_torch_nor_tensorboard() -> None:
    script = (
        "import sys, rlkit.run.folder; print({'torch', 'tensorboard', 'rich'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert output.stdout.strip() == "set()"
