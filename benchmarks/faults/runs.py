"""Faults 34 to 39, 44 to 47, 49 and 50: runs, checkpoints, signals."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from causes import FAULTY, SMALL, Fault, ended, rlkit, rlkit_train, say, sb3_model
from faulty import Faulty

KILLS = 12
TENSORS = "tensors.safetensors"


def rlkit_run(agent: str, *more: object) -> Path:
    rlkit_train("", *more, agent=agent)
    return Path(f"runs/{agent}-Faulty-0")


def newest(run: Path) -> Path:
    return max(path for path in (run / "checkpoints").iterdir() if path.is_dir())


def evaluate(run: Path) -> None:
    rlkit("evaluate", run, "--env", FAULTY, "--episodes", 2)


def rlkit_other_agent() -> None:
    a2c, dqn = rlkit_run("a2c"), rlkit_run("dqn")
    shutil.rmtree(a2c / "checkpoints")
    shutil.copytree(dqn / "checkpoints", a2c / "checkpoints")
    evaluate(a2c)


def sb3_other_agent() -> None:
    import stable_baselines3

    sb3_model("dqn", Faulty()).save("dqn.zip")
    stable_baselines3.A2C.load("dqn.zip", device="cpu")
    say("loaded")


def rlkit_other_spaces() -> None:
    run = rlkit_run("a2c")
    config = json.loads((run / "config.json").read_text())
    config["env_options"]["symptom"] = "nested"
    (run / "config.json").write_text(json.dumps(config))
    evaluate(run)


def sb3_other_spaces() -> None:
    import stable_baselines3

    sb3_model("a2c", Faulty()).save("a2c.zip")
    stable_baselines3.A2C.load("a2c.zip", env=Faulty("obs-start"), device="cpu")
    say("loaded")


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    """The bytes with one bit in the last quarter changed: among the weights."""
    place = len(data) * 3 // 4
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def rlkit_damaged(damage: Callable[[bytes], bytes]) -> None:
    run = rlkit_run("a2c")
    file = newest(run) / TENSORS
    file.write_bytes(damage(file.read_bytes()))
    evaluate(run)


def sb3_damaged(damage: Callable[[bytes], bytes]) -> None:
    import stable_baselines3

    sb3_model("a2c", Faulty()).save("a2c.zip")
    file = Path("a2c.zip")
    file.write_bytes(damage(file.read_bytes()))
    stable_baselines3.A2C.load(file, device="cpu")
    say("loaded")


def killed_while_saving(start: Callable[[], list[str]], loads: Callable[[], bool]) -> None:
    """Kill a process that saves all the time, at random moments; count what loads afterwards."""
    draw, good = random.Random(0), 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            start(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path.cwd()
        )
        while not Path("saving").exists():
            time.sleep(0.01)
        time.sleep(draw.uniform(0.05, 0.6))
        process.kill()
        process.wait()
        Path("saving").unlink()
        good += loads()
    say(f"loads after {good} of {KILLS} kills")


def sb3_saves_for_ever() -> None:
    model = sb3_model("a2c", Faulty(), policy_kwargs={"net_arch": [1024, 1024]})
    model.save("a2c.zip")
    Path("saving").touch()
    while True:
        model.save("a2c.zip")


def rlkit_saves_for_ever() -> None:
    import torch

    from rlkit.run.checkpoint import save_checkpoint

    tree = {"weights": [torch.zeros(1024, 1024) for _ in range(4)]}
    save_checkpoint(".", 0, tree, {})
    Path("saving").touch()
    step = 0
    while True:
        step += 1
        save_checkpoint(".", step, tree, {})


def this_module(call: str) -> list[str]:
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    return [sys.executable, "-c", f"import runs; runs.{call}()"]


def rlkit_killed() -> None:
    from rlkit.run.checkpoint import load_checkpoint

    def loads() -> bool:
        load_checkpoint(".")
        return True

    killed_while_saving(partial(this_module, "rlkit_saves_for_ever"), loads)


def sb3_killed() -> None:
    import stable_baselines3

    def loads() -> bool:
        try:
            stable_baselines3.A2C.load("a2c.zip", device="cpu")
        except Exception:
            return False
        return True

    killed_while_saving(partial(this_module, "sb3_saves_for_ever"), loads)


def limit_files(size: int) -> None:
    """From here on no file of this process can grow beyond `size` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def rlkit_disk_full() -> None:
    run = rlkit_run("a2c", "--hidden", "256,256", "--steps", 200)
    command = [sys.executable, "-m", "rlkit", "resume", str(run), "--steps", "400"]
    limit = (newest(run) / TENSORS).stat().st_size // 2
    done = subprocess.run(
        [*command, "--env", FAULTY],
        capture_output=True,
        text=True,
        preexec_fn=partial(limit_files, limit),
    )
    warned = sum(line.startswith("Warning: ") for line in done.stderr.splitlines())
    say(f"exit {done.returncode}, {warned} warnings")
    kept = newest(run).name
    evaluate(run)
    say(f"trains on (exit {done.returncode}) with {warned} warnings; checkpoint {kept} loads")


def sb3_disk_full() -> None:
    import stable_baselines3

    model = sb3_model("a2c", Faulty())
    model.save("a2c.zip")
    limit_files(Path("a2c.zip").stat().st_size // 2)
    try:
        model.save("a2c.zip")
        said = "saves without an error"
    except Exception as error:
        said = f"{type(error).__name__} in save"
    try:
        stable_baselines3.A2C.load("a2c.zip", device="cpu")
        say(f"{said}; the earlier file loads")
    except Exception as error:
        say(f"{said}; the earlier file is lost ({type(error).__name__})")


class Payload:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


def rlkit_pickle() -> None:
    import pickle

    run = rlkit_run("a2c")
    for checkpoint in (run / "checkpoints").iterdir():
        if checkpoint.is_dir():
            (checkpoint / TENSORS).write_bytes(pickle.dumps(Payload()))
    evaluate(run)
    say(f"payload executed: {Path('executed').exists()}")


def sb3_pickle() -> None:
    import base64
    import pickle

    import stable_baselines3

    sb3_model("a2c", Faulty()).save("a2c.zip")
    with zipfile.ZipFile("a2c.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(files["data"])
    payload = base64.b64encode(pickle.dumps(Payload())).decode()
    data["verbose"] = {":type:": "<class 'int'>", ":serialized:": payload}
    files["data"] = json.dumps(data).encode()
    with zipfile.ZipFile("bad.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    stable_baselines3.A2C.load("bad.zip", device="cpu")
    say(f"payload executed: {Path('executed').exists()}")


def rlkit_resumes(agent: str) -> None:
    import torch

    from rlkit.run.checkpoint import load_checkpoint

    told = ("--eval-episodes", 2, "--steps", 1000, "--save-every", 500, "--eval-every", 1000)
    rlkit("train", agent, "CartPole", *SMALL[agent], *told)
    whole, half = Path(f"runs/{agent}-CartPole-v1-0"), Path("half")
    shutil.copytree(whole, half)
    for checkpoint in (half / "checkpoints").glob("00000000*"):
        if not checkpoint.name.startswith("000000000500"):
            shutil.rmtree(checkpoint)
    rlkit("resume", half)
    one, other = (load_checkpoint(run).tree["agent"]["weights"] for run in (whole, half))
    say(f"500 + 500 steps equal 1000: {all(torch.equal(one[k], other[k]) for k in one)}")


def sb3_resumes(agent: str) -> None:
    import gymnasium
    import stable_baselines3

    def model() -> Any:
        return sb3_model(agent, gymnasium.make("CartPole-v1"))

    whole = model()
    whole.learn(1000)
    first = model()
    first.learn(500)
    first.save("half.zip")
    kind = getattr(stable_baselines3, agent.upper())
    second = kind.load("half.zip", env=gymnasium.make("CartPole-v1"), device="cpu")
    second.learn(500, reset_num_timesteps=False)
    pairs = zip(whole.policy.parameters(), second.policy.parameters(), strict=True)
    equal = all(bool((p == q).all()) for p, q in pairs)
    memory = getattr(second, "replay_buffer", None)
    kept = "" if memory is None else f"; {memory.size()} steps in the buffer"
    say(f"500 + 500 steps equal 1000: {equal}{kept}")


def signalled(command: list[str], number: int) -> None:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 40
    while not Path("started").exists() and not list(Path().glob("runs/*/metrics.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(number)
    state = ended(process, 30)
    process.kill()
    assert process.stdout is not None
    last = (process.stdout.read().strip().splitlines() or ["nothing said"])[-1]
    saved = [path.name for path in Path().glob("*.zip")] + [
        path.name for path in Path().glob("runs/*/checkpoints/0*")
    ]
    say(f"{state}: {last}; saved: {saved or 'nothing'}")


def rlkit_signalled(number: int) -> None:
    told = ["train", "a2c", FAULTY, *SMALL["a2c"], "--steps", "10000000"]
    signalled([sys.executable, "-m", "rlkit", *told], number)


def sb3_trains_for_ever() -> None:
    model = sb3_model("a2c", Faulty())
    Path("started").touch()
    model.learn(10_000_000)


def sb3_signalled(number: int) -> None:
    signalled(this_module("sb3_trains_for_ever"), number)


def rlkit_declares_much() -> None:
    run = rlkit_run("a2c")
    header = {"agent": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}
    text = json.dumps(header).encode()
    for checkpoint in (run / "checkpoints").iterdir():
        if checkpoint.is_dir():
            (checkpoint / TENSORS).write_bytes(len(text).to_bytes(8, "little") + text)
    evaluate(run)


def sb3_declares_much() -> None:
    import torch
    from stable_baselines3.common.save_util import load_from_zip_file

    sb3_model("a2c", Faulty()).save("a2c.zip")
    small = io.BytesIO()
    torch.save({"weights": torch.zeros(1).expand(10**9)}, small)
    with zipfile.ZipFile("a2c.zip", "a") as archive:
        archive.writestr("pytorch_variables.pth", small.getvalue())
    _, _, variables = load_from_zip_file("a2c.zip", device="cpu")
    found = variables["weights"].numel()
    say(f"{len(small.getvalue())} bytes accepted as {found} elements")


FAULTS = [
    Fault(34, "a checkpoint of another agent", rlkit_other_agent, sb3_other_agent),
    Fault(35, "a checkpoint for other spaces", rlkit_other_spaces, sb3_other_spaces),
    Fault(36, "a truncated file", partial(rlkit_damaged, truncate), partial(sb3_damaged, truncate)),
    Fault(36, "a flipped bit", partial(rlkit_damaged, flip), partial(sb3_damaged, flip)),
    Fault(37, "kill −9 while saving", rlkit_killed, sb3_killed),
    Fault(38, "a full disk while saving", rlkit_disk_full, sb3_disk_full),
    Fault(39, "a pickle payload", rlkit_pickle, sb3_pickle),
    *(
        Fault(
            44,
            f"resuming after 500 of 1000 steps ({agent.upper()})",
            partial(rlkit_resumes, agent),
            partial(sb3_resumes, agent),
        )
        for agent in ("a2c", "dqn")
    ),
    Fault(
        46,
        "SIGINT",
        partial(rlkit_signalled, signal.SIGINT),
        partial(sb3_signalled, signal.SIGINT),
    ),
    Fault(
        47,
        "SIGTERM",
        partial(rlkit_signalled, signal.SIGTERM),
        partial(sb3_signalled, signal.SIGTERM),
    ),
    Fault(49, "1 kB that declares 10⁹ elements", rlkit_declares_much, sb3_declares_much),
]
