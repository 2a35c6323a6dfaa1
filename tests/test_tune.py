"""`rlkit tune`: a study that several processes share, trial by trial."""

import json
import signal
import subprocess
import sys
import time

import pytest
from small_runs import metrics

import rlkit
from rlkit.errors import RunError, UsageError

optuna = pytest.importorskip("optuna")

from optuna.distributions import FloatDistribution  # noqa: E402
from optuna.trial import TrialState, create_trial  # noqa: E402

from rlkit.cli.tune import read_dimension, read_search  # noqa: E402
from rlkit.many.owner import is_gone, owner  # noqa: E402
from rlkit.many.plans import field_of  # noqa: E402
from rlkit.many.search import RULES, Choice, Range, default_search, placed, value_of  # noqa: E402
from rlkit.many.study import BEAT, OWNER, RUNS_OF, SharedStudy  # noqa: E402
from rlkit.many.task import plan_task  # noqa: E402
from rlkit.many.tune import train_command  # noqa: E402
from rlkit.many.watch import Curve  # noqa: E402
from rlkit.training import build  # noqa: E402
from rlkit.training.options import RunOptions  # noqa: E402

SPACE = {"x": FloatDistribution(0, 1)}
LAKE = (
    *("q-learning", "FrozenLake", "--steps", 640, "--eval-episodes", 3, "--device", "cpu"),
    *("--search", "gamma=0.9:0.99"),
)
HOME = "runs/tune-q-learning-FrozenLake-v1"


@pytest.fixture
def share(tmp_path):
    """Open the same study again and again, as processes would."""

    def opened(**changed):
        told = {"plan": {"agent": "a2c"}, "seed": 0, "pruner": "median", "create": True} | changed
        return SharedStudy(str(tmp_path / "study.journal"), "one", **told)

    return opened


def test_processes_that_share_a_study_make_the_trials_together(share):
    first, second = share(), share()
    made = [study.next(3, SPACE) for study in (first, second, first, second, first)]
    assert [trial and trial.number for trial in made] == [0, 1, 2, None, None]
    drawn = {trial.params["x"] for trial in made[:3]}
    assert len(drawn) == 3
    first.finish(made[0], TrialState.COMPLETE, 1.0, {"returns": [1.0]})
    first.finish(made[2], TrialState.FAIL, None, {"error": "it diverged"})
    assert second.next(3, SPACE) is None
    states = [trial.state for trial in second.trials()]
    assert states == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.FAIL]
    assert second.next(4, SPACE).number == 3


def test_a_trial_too_many_is_void(share, monkeypatch):
    study, late = share(), share()
    study.next(1, SPACE)
    looks = iter(["before", "before"])  # the other asks between its second look and its own trial
    monkeypatch.setattr(late, "trials", lambda: [] if next(looks, None) else study.trials())
    assert late.next(1, SPACE) is None
    assert [trial.number for trial in study.trials()] == [0]


def test_trials_are_drawn_from_the_seed_and_their_number(share, tmp_path):
    one = [share().next(9, SPACE).params["x"] for _ in range(3)]
    (tmp_path / "study.journal").unlink()
    assert [share().next(9, SPACE).params["x"] for _ in range(3)] == one
    (tmp_path / "study.journal").unlink()
    assert [share(seed=1).next(9, SPACE).params["x"] for _ in range(3)] != one


def test_a_trial_that_is_handed_back_goes_on_once_with_its_values(share):
    first, second = share(), share()
    trial = first.next(2, SPACE)
    first.hand_back(trial)
    second.hand_back(trial)  # two that notice
    again = second.next(2, SPACE)
    assert again.params == trial.params
    assert again.user_attrs[RUNS_OF] == trial.number
    assert first.next(2, SPACE).params != trial.params
    assert first.next(2, SPACE) is None
    first.finish(
        trial, TrialState.COMPLETE, 5.0, {"returns": []}
    )  # its first owner lives after all
    assert first.prunes(trial, 1, 0.0)
    assert all(trial.state == TrialState.RUNNING for trial in first.trials())


def test_trials_of_processes_that_have_ended_are_handed_back(share):
    study = share()
    gone, elsewhere, silent, alive = (study.next(4, SPACE) for _ in range(4))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone.set_user_attr(OWNER, owner() | {"pid": ended.pid})
    elsewhere.set_user_attr(OWNER, {"host": "elsewhere", "pid": ended.pid, "started": ""})
    silent.set_user_attr(OWNER, {"host": "elsewhere", "pid": 1, "started": ""})
    silent.set_user_attr(BEAT, 0.0)
    assert share().hand_back_stale() == 2
    left = [trial.number for trial in study.trials() if trial.state == TrialState.RUNNING]
    assert left == [elsewhere.number, alive.number]


def test_a_process_number_that_was_given_anew_is_another_process():
    assert not is_gone(owner())
    assert is_gone(owner() | {"started": "1"})
    assert not is_gone(owner() | {"host": "elsewhere", "started": "1"})
    for nonsense in (None, [], {}, owner() | {"pid": "1"}, owner() | {"pid": -1}):
        assert not is_gone(nonsense)


def test_studies_about_something_else_and_studies_that_are_none_are_refused(share, tmp_path):
    with pytest.raises(UsageError, match=r"there is no study in .* yet; begin one with --trials N"):
        share(create=False)
    assert not list(tmp_path.iterdir())
    share()
    with pytest.raises(UsageError, match="its agent is 'a2c', not 'dqn'; choose another name"):
        share(plan={"agent": "dqn"})
    with pytest.raises(UsageError, match="unknown study 'ones'; did you mean one"):
        SharedStudy(str(tmp_path / "study.journal"), "ones", {}, 0, "median", create=False)
    with pytest.raises(UsageError, match="unknown pruner 'medan'; did you mean median"):
        share(pruner="medan")


@pytest.mark.parametrize(
    "damage", [b"{\n{}\n", b'{"op_code": 99}\n', b"\x00" * 50 + b"\n", b"[]\n{}\n"]
)
def test_a_damaged_journal_is_named(share, tmp_path, damage):
    (tmp_path / "study.journal").write_bytes(damage)
    with pytest.raises(UsageError, match=r"study.journal can't be used: .* is it there, whole"):
        share()


@pytest.mark.parametrize(
    ("storage", "error"),
    [
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
        ("postgresql://me:secret@localhost:1/x", r"postgresql://me:\*\*\*@localhost:1/x"),
        ("nosuch://x", "nosuch"),
        ("/proc/nowhere/study.journal", "No such file"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_line(tmp_path, storage, error):
    with pytest.raises(UsageError, match=error) as refused:
        SharedStudy(storage, "one", {}, 0, "median", create=True)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_study_in_a_database_is_shared_too(tmp_path):
    def opened():
        return SharedStudy(f"sqlite:///{tmp_path}/study.db", "one", {}, 0, "none", create=True)

    made = [study.next(2, SPACE) for study in (opened(), opened(), opened())]
    assert [trial and trial.number for trial in made] == [0, 1, None]
    opened().hand_back(made[0])
    assert opened().next(2, SPACE).params == made[0].params


def test_a_storage_that_fails_later_is_an_error_of_one_line(share):
    said = "failed: OSError: gone; the same command goes on"
    with pytest.raises(RunError, match=said), share().guarded():
        raise OSError("gone\nfor ever")


def read(agent, *texts):
    return read_search(agent, [tuple(text.split("=", 1)) for text in texts])


def test_searches_are_read_by_the_type_of_the_field():
    assert read("ppo", "learning_rate=1e-4:1e-2:log", "n_steps=16:64", "gamma=.9,.99") == {
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "n_steps": Range(16, 64),
        "gamma": Choice((0.9, 0.99)),
    }
    assert read("ppo", "hidden=64,64", "hidden=8") == {"hidden": Choice(((64, 64), (8,)))}
    assert read("ppo", "squash=true,false") == {"squash": Choice((True, False))}
    with pytest.raises(UsageError, match=r"gamma .* is given twice"):
        read("ppo", "gamma=0:1", "gamma=.5:.9")
    # with a shape it is a schedule, and no range
    shaped = read_dimension(field_of("ppo", "clip"), "0.2:0.1:cosine")
    assert shaped == Choice(("0.2:0.1:cosine",))


def task(search=None, settings=None, agent="a2c", env="CartPole", seeds=1, **options):
    options = RunOptions(**options)
    return plan_task(agent, env, options, {}, settings or {}, search, seeds)


@pytest.mark.parametrize(
    ("search", "error"),
    [
        ({"gama": Range(0, 1)}, "unknown option 'gama'; did you mean gamma"),
        ({"gamma": Range(0.5, 1.5)}, "gamma .* is 1.5; allowed"),
        ({"gamma": Range(0.9, 0.9)}, "gamma .* is 0.9:0.9; allowed: LOW:HIGH"),
        ({"gamma": Range(0, 0.9, log=True)}, "0:0.9:log; allowed"),
        ({"gamma": Choice((0.9,))}, "give two or more different ones"),
        ({"gamma": Choice((0.9, 0.9))}, "give two or more different ones"),
        ({"optimizer": Range(0, 1)}, "optimizer .* has no ranges; give values"),
        ({"n_steps": Range(1.5, 4)}, "n_steps .* is 1.5; allowed: a whole number"),
        ({"envs": Range(1, 4)}, "envs .* can't be searched; give it with --set"),
        ({}, "search .* is empty"),
    ],
)
def test_searches_that_are_not_allowed_are_refused(search, error):
    with pytest.raises(UsageError, match=error):
        task(search)


def test_a_field_is_searched_or_set():
    with pytest.raises(UsageError, match="gamma is in both"):
        task({"gamma": Range(0.5, 0.9)}, {"gamma": 0.9})
    assert "gamma" not in task(settings={"gamma": 0.9}).search


@pytest.mark.parametrize("agent", sorted(rlkit.registry.AGENTS))
def test_every_agent_has_a_search_of_allowed_values(agent):
    base = build.defaults(build.agent_class(agent))
    search = default_search(base)
    assert {"learning_rate"} <= set(search) <= set(RULES)
    for name, dimension in search.items():
        ends = [dimension.low, dimension.high] if isinstance(dimension, Range) else dimension.values
        whole = field_of(agent, name).type == "int"
        for end in ends:
            base.but({name: placed(base, name, round(end) if whole else end)})


def test_a_schedule_keeps_its_shape_around_the_start_that_is_found():
    base = build.defaults(build.agent_class("dqn")).but({"learning_rate": "1e-3:1e-4:cosine@0.5"})
    assert placed(base, "learning_rate", 0.004) == "0.004:0.0004:cosine@0.5"
    assert placed(base, "learning_rate", "1e-2") == "1e-2"  # one of some values
    assert placed(base, "gamma", 0.9) == 0.9
    assert value_of(Range(0, 1), 0.123456789) == 0.1235
    assert value_of(Choice(([64, 64], [8])), "[64, 64]") == [64, 64]


def test_the_best_recipe_is_a_command_that_repeats_it(cli):
    found = task(settings={"steps": 500}, pixels=True, seed=7)
    changes = {"steps": 500, "hidden": [8, 8], "normalize_obs": False, "learning_rate": "0.1:0"}
    assert train_command(found, changes) == (
        "rlkit train a2c CartPole-v1 --steps 500 --hidden 8,8 --no-normalize-obs "
        "--learning-rate 0.1:0 --pixels --seed 7"
    )


@pytest.mark.timeout(300)
def test_two_processes_on_one_journal_share_the_trials(cli, tmp_path):
    asked = (*LAKE, "--trials", 3, "--jobs", 1, "--confirm", 0)
    command = [sys.executable, "-m", "rlkit", "tune", *map(str, asked)]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=250)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    begun = sorted(line for out in outputs for line in out.splitlines() if ": gamma " in line)
    assert [line.split(":")[0] for line in begun] == [f"trial {i}" for i in range(3)]

    asked = (*LAKE, "--trials", 3, "--confirm", 1, "--confirm-seeds", 1)
    found = json.loads(cli("tune", *asked, "--json").out)
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 3
    assert sorted(trial["number"] for trial in found["trials"]) == [0, 1, 2]
    runs = sorted(path.name for path in (tmp_path / HOME).glob("trial=*"))
    assert runs == [f"trial={i:04d},seed=0-0" for i in range(3)]
    for trial in found["trials"]:
        config = tmp_path / HOME / f"trial={trial['number']:04d},seed=0-0" / "config.json"
        assert json.loads(config.read_text())["recipe"]["gamma"] == trial["changes"]["gamma"]
    (confirmed,), first = found["confirmed"], found["trials"][0]
    fresh = tmp_path / HOME / "confirm" / f"trial={first['number']:04d},seed=1000-0"
    assert list(fresh.parent.glob("trial=*")) == [fresh]
    evaluations = [
        line["eval/mean_reward"] for line in metrics(fresh) if "eval/mean_reward" in line
    ]
    assert confirmed["returns"] == evaluations[-1:]
    assert (confirmed["number"], confirmed["value"]) == (first["number"], first["value"])
    assert found["best"] == first["number"]
    assert found["recipe"] == json.loads((tmp_path / HOME / "best.json").read_text())


@pytest.mark.timeout(300)
def test_poor_trials_are_pruned(cli, tmp_path):
    long = ("--steps", 200_000, "--set", "envs=1")
    asked = (*LAKE, *long, "--trials", 6, "--jobs", 1, "--confirm", 0)
    search, fixed = {"gamma": Range(0.9, 0.99)}, {"steps": 200_000, "envs": 1}
    about = task(search, fixed, "q-learning", "FrozenLake", eval_episodes=3, device="cpu")
    home = tmp_path / HOME
    home.mkdir(parents=True)
    name = home.name
    study = SharedStudy(str(home / "study.journal"), name, about.to_json(), 0, "median", True)
    for i in range(5):  # of the same shape, and so good that nothing else can last
        study.study.add_trial(
            create_trial(
                params={"gamma": 0.9 + i / 100},
                distributions={"gamma": FloatDistribution(0.9, 0.99)},
                value=2.0 + i,
                intermediate_values=dict.fromkeys(range(1, 6), 2.0 + i),
            )
        )
    done = cli("tune", *asked, "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 5 + ["pruned"]
    assert found["trials"][0]["value"] == 6.0
    steps = (home / "trial=0005,seed=0-0" / "checkpoints" / "latest").read_text()
    assert int(steps[:12]) < 200_000
    assert found["best"] == 4
    assert "--gamma 0.94" in found["command"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_search_that_is_stopped_goes_on_with_the_trial_it_was_at(cli, tmp_path, number):
    asked = (
        *("a2c", "CartPole", "--steps", 100_000, "--search", "gamma=0.9:0.99", "--device", "cpu"),
        *("--trials", 1, "--jobs", 1, "--confirm", 0),
    )
    command = [sys.executable, "-m", "rlkit", "tune", *map(str, asked)]
    run = tmp_path / "runs/tune-a2c-CartPole-v1/trial=0000,seed=0-0"
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    while Curve(run).look().step < 5_000:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "1 trials are still to be done; the same command goes on with them" in output
    else:
        time.sleep(10)  # for the run to save and end
    reached = Curve(run).look().step
    assert reached < 100_000
    done = cli("tune", *asked, "--json")
    (trial,) = json.loads(done.out)["trials"]
    assert (trial["number"], trial["state"]) == (1, "complete")
    assert [path.name for path in run.parent.glob("trial=*")] == [run.name]
    log = (run.parent / "logs/trial=0000,seed=0.log").read_text()
    assert f"going on with runs/tune-a2c-CartPole-v1/{run.name} from step " in log


def test_what_is_not_allowed_is_refused(cli):
    for given, error in [
        (("--trials", -1), "trials (--trials) is -1; allowed: a whole number >= 0"),
        (("--trials", 1, "--confirm", -1), "confirm (--confirm) is -1"),
        (("--trials", 1, "--seeds-per-trial", 0), "seeds_per_trial (--seeds-per-trial) is 0"),
        (("--trials", 1, "--study", "../x"), "run name '../x' is not allowed"),
        (("--trials", 1, "--jobs", 0), "jobs (--jobs) is 0"),
    ]:
        refused = cli("tune", *LAKE, *given)
        assert refused.status == 2
        assert error in refused.error


def test_without_optuna_the_extra_is_named(cli, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install -c constraints.txt -e '.\[tune\]'"):
        rlkit.tune("a2c", "CartPole", 1)
