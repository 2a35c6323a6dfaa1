"""Worker processes that die, hang or fail, for real; and that none is left behind."""

import contextlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv
from small_runs import SMALL, leaves, metrics, steps_saved
from wayward import LENGTH, Kept, Talking, Wayward

from rlkit.envs import workers
from rlkit.envs.make import make_envs
from rlkit.envs.workers import WorkerLimits
from rlkit.errors import EnvError, RlkitWarning, UsageError
from rlkit.run.checkpoint import load_checkpoint
from rlkit.training.episodes import Episodes
from rlkit.training.options import RunOptions

HERE = Path(__file__).parent
WAYWARD = f"{HERE / 'wayward.py'}:Wayward"
KEPT = f"{HERE / 'wayward.py'}:Kept"
SOON = 0.3  # seconds
KINDS = ("sync", "async")
DEATHS = {
    "kill": "died (signal 9, SIGKILL; often the memory ran out)",
    "segfault": "died (signal 11, SIGSEGV)",
    "leave": "died (exit status 3)",
    "part": "died (exit status 3)",
}


@pytest.fixture(autouse=True)
def no_children_are_left():
    yield
    assert multiprocessing.active_children() == []


def made(way="", n=3, timeout=0.0, restarts=0, frame_stack=1, env=Wayward, **how):
    limits = WorkerLimits(timeout, restarts)
    make = lambda: env(way, **how)  # noqa: E731
    return make_envs(make, n, 5, "async", frame_stack=frame_stack, limits=limits)


def played(envs, steps, action=1):
    """The steps, from a reset."""
    envs.reset()
    return [envs.step(np.full(envs.n, action)) for _ in range(steps)]


def failure(envs, steps=12):
    began = time.monotonic()
    with pytest.raises(EnvError) as caught, envs:
        played(envs, steps)
    assert time.monotonic() - began < 4
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("way", DEATHS)
def test_a_worker_that_dies_is_named(way):  # fault 14
    assert str(failure(made(way, at=4))) == (
        f"worker 1 {DEATHS[way]} at vector step 4, action 1; --restart-workers N lets a "
        "run replace N workers"
    )


def test_a_worker_that_hangs_is_killed_and_named(monkeypatch):  # fault 15
    monkeypatch.setattr(workers, "STARTUP", SOON)
    assert str(failure(made("hang", at=4, timeout=SOON))) == (
        "worker 1 hung and was killed: env 1 took more than 0.3 s (env_timeout, --env-timeout) at "
        "vector step 4, action 1; --restart-workers N lets a run replace N workers"
    )
    error = str(failure(made("hang", where="reset", timeout=SOON)))
    assert "(env_timeout, --env-timeout) in a reset;" in error
    with pytest.raises(EnvError, match=r"more than 0.3 s \(.*\) as it started$"):
        made("hang", where="make", timeout=SOON)


def test_the_first_answer_may_take_longer(monkeypatch):
    monkeypatch.setattr(workers, "STARTUP", 30.0)
    with made("delay", where="make", n=2, timeout=SOON) as envs:
        played(envs, 3)


def test_slow_steps_without_a_limit():
    with made(pause=1.2, n=2) as envs:  # longer than a glance
        assert played(envs, 1)[0].valid.all()


def test_a_worker_that_dies_outside_a_step_is_named():
    assert str(failure(made("kill", where="reset"))).startswith(
        "worker 1 died (signal 9, SIGKILL; often the memory ran out) in a reset; --restart"
    )
    error = str(failure(made("kill", where="reset", at=LENGTH)))
    assert "at vector step 11, in its reset" in error
    with pytest.raises(EnvError, match=r"^worker 1 died \(exit status 3\) as it started$"):
        made("leave", where="make", restarts=3)


def test_an_environment_that_fails_as_it_is_made_in_a_worker():
    with pytest.raises(UsageError, match="could not be made: OSError: the disk is gone"):
        made("raise", where="make")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("unpicklable", "UnpicklableError: a wheel came off"),
        ("exit", "SystemExit: enough of this"),
        ("interrupt", "KeyboardInterrupt: of its own"),
        ("raise", "OSError: the disk is gone"),
    ],
)
def test_what_an_environment_raises_keeps_its_name_and_traceback(monkeypatch, kind, way, said):
    if kind == "sync":
        if way == "interrupt":
            pytest.skip("in the run's own process that is the user's Ctrl-C")
        monkeypatch.setattr("wayward.in_worker", lambda number: True)
    error = failure(make_envs(lambda: Wayward(way, at=4), 3, 5, kind))
    env = 1 if kind == "async" else 0
    pattern = rf"env {env} step raised {said} \(.*wayward.py:\d+\) for action 1 "
    assert re.fullmatch(pattern + r"\(at step 4 of this environment\)", str(error))
    if kind == "async":
        assert "Traceback" in error.__cause__.__notes__[0]
        assert said in error.__cause__.__notes__[0]


class Opaque(Wayward):
    def look(self):
        return super().look()[0], {"a lock": threading.Lock()}


def test_an_answer_that_cannot_be_sent():
    error = failure(made(env=Opaque))
    assert str(error).startswith("env 0 failed in its worker: TypeError: cannot pickle")
    assert "Traceback" in error.__cause__.__notes__[0]


def test_other_workers_that_are_busy_do_not_keep_the_error_back():
    envs = made("raise", at=1, n=3, pause=0.5)
    assert "the disk is gone" in str(failure(envs))


def test_a_vector_environment_of_the_user_s_whose_worker_dies():
    theirs = AsyncVectorEnv([lambda: Wayward("kill", at=4)] * 3)
    assert "a worker of the vector environment died at vector step 4; " in str(
        failure(make_envs(theirs, 3, 5))
    )


# A worker in place of another


def lost_in(steps, env=1):
    """The number of the step, from 0, in which the environment was lost."""
    (found,) = [t for t, step in enumerate(steps) if step.lost is not None and step.lost[env]]
    return found


def rows(steps, env):
    names = ("obs", "reward", "terminated", "truncated", "valid", "next_obs")
    return [[getattr(step, name)[env].tolist() for name in names] for step in steps]


@pytest.mark.parametrize("way", ["kill", "hang"])
def test_a_lost_step_is_a_truncation_and_the_next_a_reset(tmp_path, monkeypatch, way):
    monkeypatch.setattr(workers, "STARTUP", 1.0)
    how = {"at": LENGTH + 4, "mark": str(tmp_path / "mark")}
    with made(way, timeout=SOON, restarts=2, **how) as envs:
        with pytest.warns(RlkitWarning) as warned:
            steps = played(envs, 40)
        assert envs.restarts == 1
    (warning,) = map(str, (each.message for each in warned))
    assert re.match("worker 1 (died|hung)", warning)
    assert "at vector step 15, action 1; a new one takes its place" in warning
    assert warning.endswith("with a new episode (restart 1 of 2)")

    t = lost_in(steps)
    assert t == 14  # one dead step before it
    cut, dead, first = steps[t : t + 3]
    assert cut.lost.tolist() == [False, True, False]
    assert cut.valid.all()
    assert (cut.terminated[1], cut.truncated[1], cut.reward[1]) == (False, True, 0)
    assert np.array_equal(cut.next_obs[1], cut.obs[1])
    assert np.array_equal(cut.obs[1], steps[t - 1].next_obs[1])
    assert dead.valid.tolist() == [True, False, True]
    assert dead.begins.tolist() == [False, True, False]
    assert (dead.terminated[1], dead.truncated[1], dead.reward[1]) == (False, False, 0)
    assert dead.next_obs[1, 1] == 0  # age
    assert first.valid.all()
    assert np.array_equal(first.obs[1], dead.next_obs[1])
    assert first.next_obs[1, 1] == np.float32(0.1)
    assert first.reward[1] == 2
    starts = {float(step.obs[1, 0]) for step in steps}
    assert len(starts) == 5  # two episodes, and three after the loss: no one is repeated

    with made() as whole:  # the others have noticed nothing
        others = played(whole, 40)
    for env in (0, 2):
        assert rows(steps, env) == rows(others, env)
    assert all(step.lost is None for step in others)


def test_a_lost_episode_counts_in_no_mean(tmp_path):
    envs = made("kill", at=4, n=2, restarts=1, mark=str(tmp_path / "mark"))
    with envs, pytest.warns(RlkitWarning, match="died"):
        steps = played(envs, 16)
    episodes = Episodes(2)
    for step in steps:
        episodes.add(step)
    assert episodes.told() == [(20.0, LENGTH), (20.0, LENGTH)]


def test_new_seeds_are_new_each_time_and_come_from_the_run_s():
    starts = []
    for _ in range(2):
        with made("kill", at=4, n=2, restarts=4) as envs, pytest.warns(RlkitWarning):
            steps = played(envs, 23)
        assert envs.restarts == 4
        starts.append([float(step.next_obs[1, 0]) for step in steps if not step.valid[1]])
    assert starts[0] == starts[1]
    assert len(set(starts[0])) == 4


def test_restarts_are_used_up():
    with pytest.warns(RlkitWarning) as warned:
        error = failure(made("leave", at=3, restarts=2), 30)
    assert len(warned) == 2
    assert str(error) == (
        "worker 1 died (exit status 3) at vector step 11, action 1; the 2 restarts of "
        "--restart-workers are used up"
    )


@pytest.mark.parametrize("at", [0, LENGTH])
def test_a_worker_lost_in_a_reset_is_replaced_within_it(tmp_path, at):
    how = {"where": "reset", "at": at, "mark": str(tmp_path / "mark")}
    with made("kill", restarts=1, **how) as envs, pytest.warns(RlkitWarning, match="reset; a new"):
        steps = played(envs, 2 * LENGTH + 3)
    with made() as whole:
        others = played(whole, 2 * LENGTH + 3)
    for step, other in zip(steps, others, strict=True):
        assert step.lost is None
        for name in ("reward", "terminated", "truncated", "valid"):
            assert np.array_equal(getattr(step, name), getattr(other, name))
        assert np.array_equal(step.next_obs[:, 1], other.next_obs[:, 1])  # the age
    assert rows(steps, 0) == rows(others, 0)
    assert rows(steps, 1) != rows(others, 1)  # another seed


def kill_worker(envs, number):
    """Kill it while it waits for the next step."""
    process = envs._venv.unwrapped.processes[number]
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.mark.parametrize("asked", [False, True], ids=["in the step", "when saving"])
@pytest.mark.parametrize("before", [3, LENGTH])
def test_a_worker_that_dies_between_steps(asked, before):
    with made(env=Kept, restarts=1) as envs:
        played(envs, before)
        assert envs.get_state() is not None
        kill_worker(envs, 1)
        envs._venv.observations[1] = np.nan  # what a half-written observation may look like
        with pytest.warns(RlkitWarning, match="died"):  # noqa: PT031
            assert not (asked and envs.get_state())
            steps = [envs.step(np.ones(3, int)) for _ in range(3)]
        if before == LENGTH:  # there was no episode to lose
            assert all(step.lost is None for step in steps)
            assert steps[0].valid.tolist() == [False] * 3
        else:
            assert lost_in(steps) == 0
            assert np.array_equal(steps[0].next_obs[1], steps[0].obs[1])
            assert steps[1].valid.tolist() == [True, False, True]
        assert steps[2].valid.all()
        assert envs.get_state() is not None


def test_a_lost_step_right_after_resuming_ends_where_the_saved_one_stood():
    with made(env=Kept, restarts=1) as envs:
        played(envs, 5)
        tree = envs.get_state()
    with made(env=Kept, restarts=1) as envs:
        envs.reset()
        obs = envs.set_state(tree)
        kill_worker(envs, 1)
        with pytest.warns(RlkitWarning, match="vector step 6"):
            step = envs.step(np.ones(3, int))
        assert np.array_equal(step.next_obs[1], obs[1])
        assert step.truncated.tolist() == step.lost.tolist() == [False, True, False]


@pytest.mark.parametrize("before", [5, LENGTH])
def test_a_worker_lost_as_its_state_is_restored(before):
    with made(env=Kept) as envs:
        played(envs, before)
        tree = envs.get_state()
    with made(env=Kept, restarts=1) as envs:
        envs.reset()
        kill_worker(envs, 1)
        with pytest.warns(RlkitWarning, match="died"):
            obs = envs.set_state(tree)
        steps = [envs.step(np.ones(3, int)) for _ in range(3)]
        if before == LENGTH:  # there was no episode to lose
            assert all(step.lost is None for step in steps)
            assert [step.valid.tolist() for step in steps[:2]] == [[False] * 3, [True] * 3]
            return
        assert lost_in(steps) == 0
        assert np.array_equal(steps[0].next_obs[1], obs[1])
        assert steps[1].valid.tolist() == [True, False, True]
        assert [step.next_obs[0, 1] for step in steps] == pytest.approx([0.6, 0.7, 0.8])


def test_between_a_lost_step_and_the_reset_there_is_no_state_to_save():
    with made(env=Kept, restarts=1) as envs:
        played(envs, 5)
        kill_worker(envs, 1)
        with pytest.warns(RlkitWarning, match="died"):
            assert envs.step(np.ones(3, int)).lost[1]
        assert envs.get_state() is None
        assert envs.step(np.ones(3, int)).valid.tolist() == [True, False, True]
        assert envs.get_state() is not None


def test_a_time_limit_is_followed_by_a_reset():
    limited = {"max_episode_steps": 4}
    with make_envs("CartPole", 2, 5, "async", options=limited) as envs:
        steps = played(envs, 10)
    assert [t for t, step in enumerate(steps) if step.truncated.all()] == [3, 8]
    assert [t for t, step in enumerate(steps) if not step.valid.any()] == [4, 9]


def test_masks_and_stacked_frames_of_a_lost_step(tmp_path):
    mark = str(tmp_path / "mark")
    envs = made("kill", at=4, restarts=1, mark=mark, frame_stack=3, masked=True)
    with envs, pytest.warns(RlkitWarning, match="died"):
        steps = played(envs, 6)
    t = lost_in(steps)
    cut, dead = steps[t], steps[t + 1]
    assert cut.obs[1, :, 1].tolist() == pytest.approx([0.1, 0.2, 0.3])
    # As memories see it that keep each frame once: the last frame came once more.
    assert cut.next_obs[1, :, 1].tolist() == pytest.approx([0.2, 0.3, 0.3])
    assert cut.next_mask[1].tolist() == cut.mask[1].tolist() == [False, True, True]
    assert dead.mask[1].all()
    assert dead.next_obs[1, :, 1].tolist() == [0, 0, 0]


def test_observations_that_go_through_the_pipes(tmp_path):
    envs = made("kill", at=4, n=2, env=Talking, restarts=1, mark=str(tmp_path / "mark"))
    with envs, pytest.warns(RlkitWarning, match="died"):
        steps = played(envs, 12)
    cut = steps[lost_in(steps)]
    assert np.array_equal(cut.next_obs[1], cut.obs[1])
    assert [t for t, step in enumerate(steps) if not step.valid[1]] == [4]
    assert [t for t, step in enumerate(steps) if not step.valid[0]] == [LENGTH]
    assert not np.array_equal(steps[-1].obs[0], steps[-1].next_obs[0])  # an episode's first step


# States


@pytest.mark.parametrize(("save", "load"), [(a, b) for a in KINDS for b in KINDS])
@pytest.mark.parametrize("env", ["CartPole", "FrozenLake", Kept])
def test_a_saved_state_goes_on_bit_for_bit(env, save, load):
    rng = np.random.default_rng(0)
    actions = rng.integers(2, size=(60, 3))
    with make_envs(env, 3, 5, save) as envs:
        envs.reset()
        for action in actions[:32]:
            last = envs.step(action)
        assert last.terminated.all() or env is not Kept  # the next step is to be a reset
        tree = envs.get_state()
        steps = [envs.step(action) for action in actions[32:]]
    with make_envs(env, 3, 6, load) as envs:
        envs.set_state(tree)
        assert leaves(envs.get_state()) == leaves(tree)
        for action, step in zip(actions[32:], steps, strict=True):
            again = envs.step(action)
            for name in ("obs", "reward", "terminated", "truncated", "valid", "next_obs"):
                assert np.array_equal(getattr(again, name), getattr(step, name))


def test_a_state_of_other_environments_is_refused():
    with make_envs("CartPole", 2, 0, "async") as envs:
        envs.reset()
        tree = envs.get_state()
        tree["environments"]["envs"]["0"].pop("own")
        with pytest.raises(UsageError, match="of another environment: it has no 'own'"):
            envs.set_state(tree)


# Ends


def test_closing_is_bounded_in_time(monkeypatch):
    monkeypatch.setattr(workers, "CLOSING", SOON)
    envs = made("hang", where="close", n=2)
    envs.reset()
    with pytest.warns(RlkitWarning, match="env 1 could not be closed in time"):
        envs.close()
    envs.close()


def test_ctrl_c_waits_for_nobody():
    began = time.monotonic()
    asked = threading.Timer(SOON, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), made("hang", at=1) as envs:  # noqa: PT012
        asked.start()
        played(envs, 1)
    assert time.monotonic() - began < workers.CLOSING / 2


def test_an_environment_that_raises_as_it_closes(capfd, monkeypatch):
    monkeypatch.setattr("wayward.in_worker", lambda number: True)
    envs = make_envs(lambda: Wayward("raise", where="close"), 1, 5, "sync")
    with pytest.warns(RlkitWarning, match=r"env 0 raised OSError: the disk is gone .* in close;"):
        envs.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # also in the workers, which are copies of this process
        with made("raise", where="close", n=2) as envs:
            envs.reset()
    assert "Traceback" not in capfd.readouterr().err


PARENT = """
    import sys, time, os, threading
    sys.path.insert(0, {tests!r})
    from rlkit.envs.make import make_envs
    from wayward import Wayward
    import numpy as np

    def go():
        envs = make_envs(lambda: Wayward(pause={pause}), 3, 0, "async")
        envs.reset()
        print(*[process.pid for process in envs._venv.processes], flush=True)
        {then}

    {start}
"""


def alive(pid):
    """Whether the process is there, and not only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def parent(then="time.sleep(100)", start="go()", pause=0):
    """A process with three workers, and their ids."""
    code = textwrap.dedent(PARENT).format(tests=str(HERE), then=then, start=start, pause=pause)
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 3
    return process, pids


def gone(pids, seconds=5.0):
    until = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


BUSY = {"then": "envs.step(np.zeros(3, int))", "pause": 100}
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


@linux
@pytest.mark.parametrize("how", [{}, BUSY], ids=["idle", "in a step without end"])
def test_workers_end_with_a_parent_that_is_killed(how):  # fault 16
    process, pids = parent(**how)
    time.sleep(SOON)
    assert all(map(alive, pids))
    process.kill()
    process.communicate()
    assert gone(pids)


@linux
def test_workers_of_a_thread_end_with_the_parent_and_not_with_the_thread():
    start = "t = threading.Thread(target=go); t.start(); t.join(); print('over', flush=True); "
    process, pids = parent("globals()['kept'] = envs", start + "time.sleep(100)")
    assert process.stdout.readline() == "over\n"
    time.sleep(SOON)
    assert all(map(alive, pids))
    process.kill()
    process.communicate()
    assert gone(pids)


@linux
@pytest.mark.parametrize("then", ["globals()['kept'] = envs", "sys.exit(7)", "os._exit(7)", "1/0"])
def test_a_parent_that_never_closes_its_environments_ends_all_the_same(then):
    process, pids = parent(then)
    try:
        process.communicate(timeout=20)
    finally:
        process.kill()
    assert gone(pids)


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_ignore_what_asks_the_run_to_stop(number):
    with made(n=2, pause=0.2) as envs:
        envs.reset()
        processes = envs._venv.processes
        threading.Timer(0.1, lambda: [os.kill(p.pid, number) for p in processes]).start()
        assert [step.valid.all() for step in played(envs, 2)] == [True, True]


# Whole runs

OPTIONS = ("--vectorization", "async")


def wayward(way, **how):
    """Options for `rlkit train` of one that goes this way."""
    told = {"way": way, **how}
    return [part for name, value in told.items() for part in ("--env-option", f"{name}={value}")]


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("kill", "worker 1 died (signal 9, SIGKILL; often the memory ran out) at vector step 50"),
        (
            "hang",
            "worker 1 hung and was killed: env 1 took more than 1 s (env_timeout, ",
        ),
        ("exit", "env 1 step raised SystemExit: enough of this (/"),
    ],
)
def test_a_run_stops_with_one_line_and_what_was_saved(cli, way, said):
    more = ("--save-every", 20, "--env-timeout", 1, *OPTIONS)
    done = cli("train", "a2c", WAYWARD, *SMALL["a2c"], *more, *wayward(way, at=46))
    assert done.status == 1
    assert done.error.startswith(said)
    assert load_checkpoint("runs/a2c-Wayward-0").step == 80
    assert cli("evaluate", "runs/a2c-Wayward-0", "--env", WAYWARD, "--episodes", 2).status == 0


@pytest.mark.parametrize("agent", ["a2c", "dqn", "r2d2"])
def test_a_run_goes_on_with_new_workers(cli, agent):
    more = ("--restart-workers", 9, *OPTIONS, *wayward("leave", at=25), "--json")
    done = cli("train", agent, WAYWARD, *SMALL[agent], *more)
    assert done.status == 0, done.err
    assert len(done.warnings) >= 3
    run = json.loads(done.out)["run"]
    counted = [
        line["time/worker_restarts"] for line in metrics(run) if "time/worker_restarts" in line
    ]
    assert counted == sorted(counted)
    assert counted[-1] == len(done.warnings)
    lengths = {line["episode/length"] for line in metrics(run) if "episode/length" in line}
    assert lengths == {LENGTH}


def test_options(cli):
    assert RunOptions().env_timeout == 300
    for more, said in (
        (
            ("--restart-workers", 1),
            "restart_workers (--restart-workers) is 1, and with ",
        ),
        (("--restart-workers", -1), "restart_workers (--restart-workers) is -1; allowed: a whole"),
        (("--env-timeout", -1), "env_timeout (--env-timeout) is -1.0; allowed: a finite "),
        (("--env-timeout", "nan"), "env_timeout (--env-timeout) is nan; allowed: a finite number"),
    ):
        refused = cli("train", "a2c", "CartPole", *more)
        assert refused.status == 2
        assert refused.error.startswith(said)


@pytest.mark.parametrize(("agent", "env"), [("a2c", "CartPole"), ("dqn", KEPT)])
def test_resuming_equals_one_go(cli, tmp_path, agent, env):  # fault 44, in worker processes
    told = (*SMALL[agent], "--save-every", 100, *OPTIONS)
    whole = Path(json.loads(cli("train", agent, env, *told, "--json").out)["run"])
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken)
    for name in steps_saved(broken)[1:]:
        shutil.rmtree(broken / "checkpoints" / name)
    resumed = cli("resume", broken, "--env", env)
    assert resumed.status == 0, resumed.err
    assert "afresh" not in resumed.out
    one, other = (leaves(load_checkpoint(run).tree) for run in (whole, broken))
    assert [path for path in one if one[path] != other[path]] == []
    assert metrics(whole) == metrics(broken)


@linux
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_of_a_run_saves_and_leaves_nobody(tmp_path, number, status):
    told = (*SMALL["a2c"], *OPTIONS, "--steps", 100_000, "--save-every", 10)
    told = map(str, (*told, *wayward("", pause=0.01)))
    command = [sys.executable, "-m", "rlkit", "train", "a2c", WAYWARD, *told]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, start_new_session=True
    )
    run = tmp_path / "runs" / "a2c-Wayward-0"
    until = time.monotonic() + 30
    while not list((run / "checkpoints").glob("0*")) and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == status
    assert err == ""
    assert "and saved; go on with: rlkit resume" in out
    assert load_checkpoint(run).step > 0
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 0)
        pytest.fail("some of the processes are left")
