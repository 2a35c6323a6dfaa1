"""When a run saves, in steps and in time; and what is left of it where it can't."""

import json
import shutil
import threading
import warnings
from pathlib import Path

import pytest
from patient import Patient
from small_runs import PATIENT, SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rlkit
from rlkit.errors import RlkitWarning, UsageError
from rlkit.interval import Interval, interval
from rlkit.training import saving
from rlkit.training.options import RunOptions
from rlkit.training.saving import SaveTimes
from rlkit.training.trainer import Trainer


@pytest.mark.parametrize(
    ("written", "steps", "seconds"),
    [
        ("50000", 50_000, None),
        ("5e4", 50_000, None),
        ("0", 0, None),
        (7, 7, None),
        ("30s", None, 30),
        ("10min", None, 600),
        ("2h", None, 7200),
        ("1.5 h", None, 5400),
        ("10MIN", None, 600),
    ],
)
def test_intervals_as_they_are_written(written, steps, seconds):
    found = interval(written)
    assert found.seconds == seconds
    assert seconds is not None or found.amount == steps
    assert interval(str(found)) == found  # as a run's config keeps it


@pytest.mark.parametrize(
    "written",
    [
        *("-1", "1.5", "0s", "0min", "10 minutes", "10m", "min", "", "nan", "infs", "1e999h"),
        "1..5h",
        *(1.5, True, None, Interval(-1), Interval(5, "d")),
    ],
)
def test_what_is_no_interval(written):
    assert interval(written) is None
    with pytest.raises(UsageError, match=r"save_every \(--save-every\) is .*; allowed: a whole"):
        RunOptions(save_every=written)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, for the times of saves."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(saving, "time", clock)
    return clock


def test_steps_are_counted_from_the_runs_beginning():
    def due(step, total=60, every=20):
        times = SaveTimes(Interval(every), step)
        found = []
        for now in range(step + 6, total + 1, 6):
            if times.due(now):
                found.append(now)
                times.saved(now)
        return found

    assert due(0) == [24, 42, 60]
    assert due(30) == [42, 60]


def test_time_runs_from_the_last_save(clock):
    times = SaveTimes(Interval(2, "min"), 0)
    clock.now += 119
    assert not times.due(10**9)
    clock.now += 1
    assert times.due(1)
    clock.now += 500  # a save that takes long
    times.saved(1)
    clock.now += 119
    assert not times.due(2)
    clock.now += 2
    assert times.due(2)


def test_a_run_saves_by_the_clock_and_a_resumed_one_goes_on_so(cli, clock, monkeypatch):
    step = Trainer._step
    saved = []
    save = Trainer.save

    def slow(self):
        clock.now += 7
        step(self)

    def watched(self, best=False):
        saved.append((self.steps, clock.now, best))
        save(self, best)

    monkeypatch.setattr(Trainer, "_step", slow)
    monkeypatch.setattr(Trainer, "save", watched)
    often = ("--save-every", "0.5min", "--eval-every", 10_000)
    told = cli("train", "a2c", PATIENT, *SMALL["a2c"], *often, "--steps", 40, "--json")
    # 20 steps of 2 environments, 7 s each: the first time after 35 s, five steps
    assert [at for at, _, _ in saved] == [10, 20, 30, 40, 40, 40]
    run = json.loads(told.out)["run"]
    assert json.loads(Path(run, "config.json").read_text())["save_every"] == "0.5min"
    saved.clear()
    assert cli("resume", run, "--env", PATIENT, "--steps", 60).status == 0
    assert [at for at, _, _ in saved if at < 60] == [50]


def test_a_save_that_fails_is_tried_again_at_the_next_time_only(clock, tmp_path):
    Path(tmp_path, "runs").mkdir()

    class Guard(Patient):
        def step(self, action):
            clock.now += 1
            if self.count == 15:
                (run,) = Path(tmp_path, "runs").iterdir()
                shutil.rmtree(run / "checkpoints", ignore_errors=True)
                (run / "checkpoints").write_text("in the way")
            return super().step(action)

    recipe = {"envs": 1, "steps": 60, "hidden": (8,)}
    options = {"run_dir": str(tmp_path / "runs"), "save_every": "10s", "eval_every": 10**6}
    with warnings.catch_warnings(record=True) as tried:
        warnings.simplefilter("always", RlkitWarning)
        rlkit.train("a2c", Guard, recipe, options | {"eval_episodes": 1})
    lost = [said for said in tried if "could not be saved" in str(said.message)]
    assert 3 <= len(lost) <= 8


def test_a_run_folder_that_disappears_costs_warnings_and_not_the_training(tmp_path):
    class Thief(Patient):
        def step(self, action):
            if self.count == 50:
                for run in tmp_path.iterdir():
                    shutil.rmtree(run)
            return super().step(action)

    recipe = {"envs": 1, "steps": 200, "hidden": (8,)}
    with pytest.warns(RlkitWarning, match="could not be saved") as said:
        done = rlkit.train("a2c", Thief, recipe, {"run_dir": str(tmp_path), "eval_episodes": 2})
    assert done.steps == 200
    assert done.evaluation is not None
    assert list(tmp_path.iterdir()) == []
    assert all("FileNotFoundError" not in str(each.message)[:20] for each in said)


def test_a_stop_that_could_not_be_saved_says_so(cli, monkeypatch):
    import signal

    step = Trainer._step

    def robbed(self):
        if self.steps == 60:
            shutil.rmtree(self.folder.path)
            signal.raise_signal(signal.SIGINT)
        step(self)

    monkeypatch.setattr(Trainer, "_step", robbed)
    done = cli("train", "a2c", PATIENT, *SMALL["a2c"], "--save-every", 20)
    assert done.status == 130
    assert "stopped at step 62, which could not be saved: step 60 is" in done.out
    assert len([said for said in done.warnings if "could not be saved" in said]) == 1


def test_tensorboard_reads_while_a_run_writes(tmp_path):
    """A reader in a loop beside the training sees whole records only, in order, and all at last."""
    seen, errors = [], []
    over = threading.Event()

    def watch():
        run = None
        while not over.is_set():
            run = run or next(iter(tmp_path.iterdir()), None)
            if run is None:
                continue
            try:
                seen.append(lengths(run))
            except Exception as error:
                errors.append(error)

    def lengths(run):
        events = EventAccumulator(str(run))
        events.Reload()
        if "time/fps" not in events.Tags()["scalars"]:
            return []
        return [event.step for event in events.Scalars("time/fps")]

    reader = threading.Thread(target=watch)
    reader.start()
    flushing = pytest.MonkeyPatch()
    flushing.setattr("rlkit.run.metrics.FLUSH_SECONDS", 0.0)
    try:
        recipe = {"envs": 2, "steps": 4000, "hidden": (8,)}
        done = rlkit.train("a2c", Patient, recipe, {"run_dir": str(tmp_path), "eval_episodes": 1})
    finally:
        flushing.undo()
        over.set()
        reader.join()
    assert errors == []
    whole = lengths(done.run)
    assert len(whole) == 100
    assert all(found == whole[: len(found)] for found in seen)
    growth = [len(found) for found in seen]
    assert growth == sorted(growth)
    assert len(set(growth)) > 2  # it did read in between
