"""Transfer: encoders taken from another run, to learn on or frozen."""

import json
import shutil
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_runs import leaves, metrics
from torch import nn

import rlkit
from rlkit.agent import Setting
from rlkit.envs.gridworld import GridWorld
from rlkit.envs.model_env import ModelEnv
from rlkit.errors import CheckpointError, UsageError
from rlkit.networks.network import Network
from rlkit.networks.normalize import ObsNormalizer
from rlkit.optim import OPTIMIZERS, FlatParameters, optimizer_for
from rlkit.run.checkpoint import load_checkpoint
from rlkit.training import build
from rlkit.training.options import RunOptions
from rlkit.training.transfer import encoders_frozen, take_encoder

BODY = {"envs": 2, "steps": 200, "hidden": (8,), "activation": "relu"}
RAW = {"normalize_obs": False}
REPLAY = {"learning_starts": 40, "train_every": 8, "gradient_steps": 2, "batch_size": 16}
REPLAY |= {"buffer_size": 300}
ROLLOUT = {"n_steps": 5, "minibatch_size": 10, "epochs": 2}
RECIPES = {
    "dqn": BODY | RAW | REPLAY | {"target_interval": 4},
    "rainbow": BODY | RAW | REPLAY | {"head_hidden": (8,), "atoms": 5, "target_interval": 4},
    "r2d2": BODY
    | RAW
    | REPLAY
    | {"core_width": 8, "burn_in": 2, "unroll": 4, "target_interval": 4},
    "a2c": BODY | RAW | {"n_steps": 5},
    "ppo": BODY | RAW | ROLLOUT,
    "pqn": BODY | RAW | ROLLOUT | {"norm": "none"},
    "sac": BODY | REPLAY,
}


def train(home, agent, env="CartPole", name="run", recipe=(), env_options=None, **options):
    told = {"run_dir": str(home), "device": "cpu", "eval_episodes": 2, **options}
    changed = RECIPES[agent] | dict(recipe)
    return rlkit.train(agent, env, changed, told, env_options=env_options, name=name).run


def weights(run):
    return load_checkpoint(run).tree["agent"]["weights"]


def encoders(run):
    """The weights of a run's encoders, by the name of the encoder and then of the weight."""
    found = {}
    for name, value in weights(run).items():
        owner, mark, rest = name.partition("encoder.")
        if mark:
            found.setdefault(owner, {})[rest] = value
    return found


def heads(run):
    return {k: v for k, v in weights(run).items() if "encoder." not in k and "normalizer." not in k}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def env_of(agent):
    return "Pendulum" if agent == "sac" else "CartPole"


@pytest.fixture(scope="module")
def source_of(tmp_path_factory):
    """A finished run of an agent, the same one for all tests, which leave it as it is."""
    home = tmp_path_factory.mktemp("sources")
    return cache(lambda agent: train(home, agent, env_of(agent), seed=1))


def new_agent(home, agent, env="CartPole", recipe=(), **options):
    """An agent as a run that begins has it, with the encoder that its options name."""
    agent_type = build.agent_class(agent)
    given = RECIPES[agent] | dict(recipe)
    changed = build.choose_recipe(agent_type, build.env_id(env), given)
    told = RunOptions(run_dir=str(home), device="cpu", **options)
    with build.open_envs(env, changed.envs, 0, told, {}) as envs:
        made = build.make_agent(agent_type, changed, envs, told)
    said = take_encoder(made, changed, told) if told.encoder_from else ""
    return made, said


# ----------------------------------------------------------------- what a run begins with


@pytest.mark.parametrize("agent", sorted(RECIPES))
def test_a_new_run_begins_with_the_others_encoder_and_a_head_of_its_own(agent, source_of, tmp_path):
    env = env_of(agent)
    source = source_of(agent)
    plain, _ = new_agent(tmp_path, agent, env, seed=2)
    made, said = new_agent(tmp_path, agent, env, seed=2, encoder_from=str(source))
    there, here, before = weights(source), made.state_dict(), plain.state_dict()
    taken = [name for name in here if "encoder." in name]
    assert taken
    # an encoder of a target net goes by what acts, from the first step on
    assert all(torch.equal(here[n], there[n.replace("target", "online")]) for n in taken)
    assert not any(torch.equal(before[n], here[n]) for n in taken if n.endswith("weight"))
    assert all(torch.equal(before[n], here[n]) for n in here if n not in taken)
    assert said == f"the encoder of {source / 'checkpoints' / '000000000200'}"


@pytest.mark.parametrize("agent", sorted(RECIPES))
def test_a_frozen_encoder_is_the_others_to_the_bit_and_the_rest_learns(agent, source_of, tmp_path):
    env = env_of(agent)
    source = source_of(agent)
    first, _ = new_agent(tmp_path, agent, env, seed=2)
    run = train(
        tmp_path, agent, env, seed=2, encoder_from=str(source), freeze_encoder=True,
        recipe={"optimizer": "adamw"},
    )  # fmt: skip
    there = {owner: w for owner, w in encoders(source).items() if "target" not in owner}
    for owner, found in encoders(run).items():
        assert same(found, there.get(owner.replace("target", "online"), {}))
    started = first.state_dict()
    assert any(not torch.equal(started[name], w) for name, w in heads(run).items())


@pytest.mark.parametrize("agent", ["dqn", "ppo", "r2d2"])
def test_a_fine_tuned_encoder_goes_on_to_learn(agent, source_of, tmp_path):
    source = source_of(agent)
    run = train(tmp_path, agent, seed=2, encoder_from=str(source))
    for owner, found in encoders(run).items():
        assert not same(found, encoders(source)[owner])


def test_the_newest_checkpoint_is_taken_unless_one_is_named(tmp_path):
    source = train(tmp_path, "a2c", seed=1, save_every=100)
    early = source / "checkpoints" / "000000000100"
    newest, _ = new_agent(tmp_path, "a2c", encoder_from=str(source))
    named, said = new_agent(tmp_path, "a2c", encoder_from=str(early))
    by_name, _ = new_agent(tmp_path, "a2c", encoder_from=f"{source.name}/checkpoints/{early.name}")
    assert str(early) in said
    kept = load_checkpoint(early).tree["agent"]["weights"]
    for name, value in newest.state_dict().items():
        if "encoder." in name:
            assert torch.equal(value, weights(source)[name])
            assert torch.equal(named.state_dict()[name], kept[name])
            assert torch.equal(by_name.state_dict()[name], kept[name])
            assert not torch.equal(value, kept[name])


@pytest.mark.parametrize(
    ("there", "here"), [("dqn", "ppo"), ("ppo", "dqn"), ("a2c", "r2d2"), ("r2d2", "pqn")]
)
def test_encoders_go_from_agent_to_agent(there, here, source_of, tmp_path):
    source = source_of(there)
    run = train(tmp_path, here, seed=2, encoder_from=str(source), freeze_encoder=True)
    acts = next(iter(encoders(source).values()))
    assert all(same(found, acts) for found in encoders(run).values())


def test_an_actors_encoder_is_an_actors_and_a_critics_a_critics(source_of, tmp_path):
    source = source_of("a2c")
    run = train(tmp_path, "ppo", seed=2, encoder_from=str(source), freeze_encoder=True)
    there, here = encoders(source), encoders(run)
    assert set(here) == {"ac.nets.actor.", "ac.nets.critic."}
    assert all(same(here[owner], there[owner]) for owner in here)
    assert not same(here["ac.nets.actor."], here["ac.nets.critic."])


def test_the_moments_of_observations_come_with_it_and_stay_where_it_is_frozen(tmp_path):
    scaled = {"normalize_obs": True}
    source = train(tmp_path, "dqn", recipe=scaled, seed=1)
    made, said = new_agent(tmp_path, "ppo", recipe=scaled, encoder_from=str(source))
    assert said.endswith("and its observations' moments")
    there = {k: v for k, v in weights(source).items() if k.startswith("normalizer.")}
    assert same({f"normalizer.{k}": v for k, v in made.ac.normalizer.state_dict().items()}, there)
    told = {"recipe": scaled, "encoder_from": str(source), "seed": 2}
    frozen = weights(train(tmp_path, "dqn", freeze_encoder=True, **told))
    tuned = weights(train(tmp_path, "dqn", **told))
    assert all(torch.equal(frozen[name], value) for name, value in there.items())
    assert tuned["normalizer.moments.count"] > there["normalizer.moments.count"]


# ----------------------------------------------------------------- what learns


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_no_optimiser_moves_what_is_frozen_and_clipping_does_not_count_it(name):
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    net[0].requires_grad_(False)
    before = [p.clone() for p in net.parameters()]
    flat = FlatParameters(net)
    assert flat.values.shape == (8,)
    assert net[0].weight.grad is None
    optimizer = optimizer_for(name, flat, 1e-8)
    for _ in range(3):
        flat.grad.fill_(1.0)
        assert flat.clip_grad(100.0) == pytest.approx(8**0.5)
        optimizer.step(0.1)
    moved = [not torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True)]
    assert moved == [False, False, True, True]


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["arrays", "tensors"])
def test_the_heads_gradient_is_that_of_autograd_and_the_encoders_is_none(kind):
    space = spaces.Box(-1, 1, (4,), np.float32)
    with encoders_frozen(True):
        net = Network(space, (8,), "relu", 3, 1.0)
    FlatParameters(net)
    x, g = torch.randn(5, 4), torch.randn(5, 3)
    y, pull = net.vjp(kind(x.numpy()))
    pull(kind(g.numpy()))
    twin = Network(space, (8,), "relu", 3, 1.0)
    twin.load_state_dict(net.state_dict())
    out = twin(x)
    out.backward(g)
    torch.testing.assert_close(torch.as_tensor(y), out.detach())
    torch.testing.assert_close(net.head.weight.grad, twin.head.weight.grad)
    assert all(p.grad is None for p in net.encoder.parameters())
    assert not any(p.requires_grad for p in net.encoder.parameters())


def test_batch_norm_in_a_frozen_encoder_keeps_its_statistics():
    """An encoder's own statistics are as much what it is as its weights."""
    space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    with encoders_frozen(True):
        net = Network(space, (8,), "relu", 3, 1.0, encoder="cnn")
        normalizer = nn.ModuleDict({"any": ObsNormalizer((4,))})["any"]
    plain = Network(space, (8,), "relu", 3, 1.0, encoder="cnn")  # after it, as ever
    assert not any(module.training for module in net.encoder.modules())
    assert net.head.training
    assert plain.encoder.training
    assert all(p.requires_grad for p in plain.parameters())
    normalizer.include(torch.randn(10, 4))
    assert torch.equal(normalizer.moments.mean, torch.zeros(4, dtype=torch.float64))


# ----------------------------------------------------------------- going on


@pytest.mark.parametrize("agent", ["dqn", "ppo", "r2d2"])
def test_a_frozen_run_goes_on_as_one_that_was_never_stopped(agent, tmp_path):
    source = train(tmp_path, agent, seed=1, recipe={"normalize_obs": True})
    told = {"seed": 2, "encoder_from": str(source), "freeze_encoder": True, "save_every": 100}
    recipe = {"normalize_obs": True, "optimizer": "adamw"}
    whole = train(tmp_path, agent, name="whole", recipe=recipe, **told)
    halved = tmp_path / "halved-0"
    shutil.copytree(whole, halved)
    shutil.rmtree(halved / "checkpoints" / "000000000200")
    (halved / "checkpoints" / "best").unlink(missing_ok=True)
    shutil.rmtree(source)  # which is not needed any more
    assert rlkit.resume(halved).steps == 200
    ours, theirs = (load_checkpoint(run).tree for run in (halved, whole))
    assert leaves(ours["agent"]) == leaves(theirs["agent"])
    assert metrics(halved)[-1] == metrics(whole)[-1]
    assert rlkit.evaluate(halved, 2).mean == rlkit.evaluate(whole, 2).mean


def test_the_config_says_what_was_taken(tmp_path):
    source = train(tmp_path, "a2c")
    run = train(tmp_path, "a2c", encoder_from=source.name, freeze_encoder=True)
    config = json.loads((run / "config.json").read_text())
    assert (config["encoder_from"], config["freeze_encoder"]) == (source.name, True)


# ----------------------------------------------------------------- small grids and large ones


def test_grids_of_all_sizes_look_alike_in_a_frame(tmp_path):
    small, large = (
        {"source": "gridworld", "size": n, "observe": "pixels-16", "max_episode_steps": 20}
        for n in (4, 7)
    )
    source = train(tmp_path, "dqn", "model", env_options=small, seed=1)
    run = train(
        tmp_path, "dqn", "model", env_options=large, encoder_from=str(source), freeze_encoder=True
    )
    assert all(same(found, encoders(source)["online."]) for found in encoders(run).values())
    assert any("conv" in name or "numbers" in name for name in encoders(run)["online."])


def test_a_framed_picture_is_the_grid_in_the_middle_of_walls():
    world = GridWorld("S.#\n..G")
    layout, mdp = world.grid_layout(), world.mdp(0.9)
    plain, framed = (ModelEnv(mdp, f"pixels{frame}", layout) for frame in ("", "-8"))
    assert framed.observation_space.shape == (8, 8, 3)
    states = np.arange(mdp.n_states)
    pictures, full = framed.observations(states), plain.observations(states)
    # 2 pixels a cell: 6 of 8 across, 4 of 8 down
    assert (pictures[:, 2:6, 1:7] == full[:, ::28, ::28].repeat(2, 1).repeat(2, 2)).all()
    wall = full[0, 0, -1]
    pictures[:, 2:6, 1:7] = wall
    assert (pictures == wall).all()
    for wrong in ("pixels-2", "pixels-x", "pixels-9999", "pixels-"):
        with pytest.raises(UsageError, match=rf"^observe is {wrong}, and the grid is 2 x 3 cells"):
            ModelEnv(mdp, wrong, layout)


# ----------------------------------------------------------------- what is refused


def refused(home, agent, match, env="CartPole", recipe=(), error=UsageError, **options):
    with pytest.raises(error, match=match) as caught:
        train(home, agent, env, name="refused", recipe=recipe, **options)
    assert "\n" not in str(caught.value)
    assert not list(home.glob("refused-*"))  # before anything was made


def test_encoders_that_are_not_alike_are_refused_by_name_and_shape(source_of, tmp_path):
    source = source_of("ppo")
    told = {"encoder_from": str(source)}
    begin = rf"^encoder_from \(--encoder-from\) is {source}, "
    refused(
        tmp_path, "ppo", begin + r"where the encoder's mlp.linears.0.weight is \(8, 4\), and in "
        r"this run it is \(9, 4\); set encoder, hidden and norm as in .*config.json$",
        recipe={"hidden": (9,)}, **told,
    )  # fmt: skip
    refused(
        tmp_path, "ppo", begin + r".*is \(8, 4\), .*is \(8, 6\); observations are Box.* there and "
        r"Box.* here: show both environments in one shape", env="Acrobot", **told,
    )  # fmt: skip
    refused(
        tmp_path, "pqn", begin + r"where the encoder's mlp.norms.0.weight is not there, and in "
        r"this run it is \(8,\)", recipe={"norm": "layer"}, **told,
    )  # fmt: skip
    refused(
        tmp_path, "ppo", begin + r"where the encoder's mlp.linears.1.weight is not there",
        recipe={"hidden": (8, 8)}, **told,
    )  # fmt: skip
    refused(
        tmp_path, "ppo", begin + "whose activation is relu, and this run's is tanh; set",
        recipe={"activation": "tanh"}, **told,
    )  # fmt: skip
    refused(
        tmp_path, "ppo", "this run normalises observations and it does not.*--normalize-obs",
        recipe={"normalize_obs": True}, **told,
    )  # fmt: skip


def test_a_run_that_has_none_is_refused(source_of, tmp_path):
    source = source_of("ppo")
    told = {"run_dir": str(tmp_path), "eval_episodes": 1}
    table = rlkit.train("q-learning", "FrozenLake", {"steps": 50}, told).run
    refused(tmp_path, "ppo", "a run of q-learning, which has no encoder", encoder_from=str(table))
    with pytest.raises(UsageError, match="and q-learning has no encoder; leave it out"):
        rlkit.train("q-learning", "FrozenLake", None, told | {"encoder_from": str(source)})
    refused(tmp_path, "ppo", r"is nowhere: unknown run 'nowhere'", encoder_from="nowhere")
    refused(tmp_path, "ppo", "freeze_encoder.*is on.*--encoder-from RUN", freeze_encoder=True)


def test_a_damaged_or_forged_run_is_refused_and_runs_nothing(tmp_path):
    source = train(tmp_path, "ppo")
    config = json.loads((source / "config.json").read_text())
    code = tmp_path / "evil.py"
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (source / "config.json").write_text(json.dumps(config | {"env": f"{code}:X", "agent": "x:Y"}))
    train(tmp_path, "ppo", encoder_from=str(source))
    assert not (tmp_path / "ran").exists()
    (source / "config.json").write_text(json.dumps(config | {"recipe": [1]}))
    refused(tmp_path, "ppo", "whose activation is None", encoder_from=str(source))
    (source / "config.json").write_text(json.dumps(config))
    for path in source.glob("checkpoints/*/tensors.safetensors"):
        path.write_bytes(b"x" * 100)
    refused(
        tmp_path, "ppo", "no checkpoint is whole", error=CheckpointError, encoder_from=str(source)
    )


def test_an_agent_of_somebody_elses_need_not_know(tmp_path):
    """The constructor is the same: what it builds within is frozen when it flattens it."""
    agent_type = build.agent_class("a2c")
    setting = Setting(
        spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(2), 2, torch.device("cpu"), 0
    )
    recipe = build.defaults(agent_type)
    with encoders_frozen(True):
        frozen = agent_type(setting, recipe)
    whole = agent_type(setting, recipe)
    of_heads = sum(p.numel() for n, p in whole.named_parameters() if "encoder." not in n)
    assert frozen.ac.flat.values.numel() == of_heads


# ----------------------------------------------------------------- the figure


def test_the_figures_runs_are_measured_exactly_and_drawn(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks" / "figures")
    import transfer

    small, large = (transfer.scaled(["S.", "#G"], k) for k in (1, 3))
    assert small == "S.\n#G"
    assert large.splitlines() == ["SSS..."] * 3 + ["###GGG"] * 3
    out = tmp_path / "figure.png"
    told = {"SIZE": 2, "SCALE": 2, "SMALL_STEPS": 800, "STEPS": 1_600, "MEASURED": 2}
    for name, value in told.items():
        monkeypatch.setattr(transfer, name, value)
    monkeypatch.setattr(sys, "argv", ["figure", "--out", str(out), "--runs", "1"])
    transfer.main()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in printed[2:]] == [
        *("scratch", "fine-tuned", "frozen", "fine-tuned", "frozen")
    ]
    assert out.read_bytes().startswith(b"\x89PNG")
