"""DQN's update with each of its switches, against the papers' equations in autograd and doubles."""

import pytest
import torch
from gymnasium import spaces
from torch.nn import functional as F

from rlkit.agent import Setting
from rlkit.agents import dqn
from rlkit.agents.dqn import DQN, DQNRecipe
from rlkit.agents.rainbow import Rainbow, RainbowRecipe
from rlkit.errors import RunError, UsageError
from rlkit.experience.replay import ReplayBatch

CPU = torch.device("cpu")
OBS, ACTIONS = spaces.Box(-50, 50, (3,)), spaces.Discrete(4)
G, B, BURSTS = 5, 16, 4
AT_ONCE = 3  # minibatches that share a forward of the target net, where it stands still
SMALL = {
    "batch_size": B,
    "hidden": (12,),
    "learning_rate": "5e-3:1e-4",
    "optimizer_eps": 1e-3,
    "target_interval": 4,
    "buffer_size": 200,
}


def agent_for(agent_type=DQN, recipe=None, **changes):
    torch.manual_seed(0)
    setting = Setting(OBS, ACTIONS, 2, CPU, seed=1)
    agent = agent_type(setting, (recipe or DQNRecipe()).but(SMALL | changes))
    agent.memory.allocate()
    return agent


def random_batch(generator, masked, weighted):
    """Rewards for both branches of the Huber loss, and past both ends of C51's support."""
    obs, next_obs = 2 + 3 * torch.randn(2, G, B, 3, generator=generator)
    uniform = torch.rand(2, G, B, generator=generator)
    return ReplayBatch(
        obs=obs,
        action=torch.randint(4, (G, B), generator=generator),
        reward=2 * torch.randn(G, B, generator=generator),
        discount=(0.5 + 0.5 * uniform[0]) * (uniform[1] > 0.3),
        next_obs=next_obs,
        cell=torch.arange(G * B).view(G, B) if weighted else None,
        weight=torch.rand(G, B, generator=generator) if weighted else None,
        next_mask=torch.rand(G, B, 4, generator=generator).argsort(-1) < 2 if masked else None,
    )


class Net:
    """A copy of a Q-network's parameters in doubles; its layers' equations, with autograd."""

    def __init__(self, network):
        self.p = {
            name: p.detach().double().clone().requires_grad_()
            for name, p in network.named_parameters()
        }
        self.sigmas = [n for n in self.p if n.endswith("weight_sigma")]
        self.noise = {}

    def draw(self, generator):
        """Fortunato et al. 2018, eq. 10 and 11: for each layer ε_i of its inputs, ε_j of its
        outputs; all of one call, in the order of the layers."""
        sizes = [n for name in self.sigmas for n in reversed(self.p[name].shape)]
        x = torch.empty(sum(sizes)).normal_(generator=generator).double() if sizes else None
        drawn = iter(torch.split(x.sign() * x.abs().sqrt(), sizes) if sizes else ())
        for name in self.sigmas:
            self.noise[name.removesuffix(".weight_sigma")] = next(drawn), next(drawn)

    def layer(self, name, x):
        W, b = self.p[f"{name}.weight"], self.p[f"{name}.bias"]
        if name in self.noise:  # eq. 9
            eps_in, eps_out = self.noise[name]
            W = W + self.p[f"{name}.weight_sigma"] * eps_out[:, None] * eps_in[None, :]
            b = b + self.p[f"{name}.bias_sigma"] * eps_out
        return x @ W.T + b

    def chain(self, prefix, x):
        """The layers below `prefix`, with ReLU between them."""
        count = sum(n.startswith(f"{prefix}.") and n.endswith(".weight") for n in self.p)
        for k in range(count):
            x = self.layer(f"{prefix}.{k}", F.relu(x) if k else x)
        return x

    def __call__(self, x, atoms):
        """(B, 4, atoms), or (B, 4) without atoms."""
        x = F.relu(self.chain("encoder.mlp.linears", x))
        shape = (4,) if atoms is None else (4, atoms)
        if any(n.startswith("head.value") for n in self.p):  # Wang et al. 2016, eq. 9
            V = self.chain("head.value.linears", x).view(len(x), 1, *shape[1:])
            A = self.chain("head.advantage.linears", x).view(len(x), *shape)
            return V + (A - A.sum(1, keepdim=True) / 4)
        streamed = any(n.startswith("head.stream") for n in self.p)
        out = self.chain("head.stream.linears", x) if streamed else self.layer("head", x)
        return out.view(len(x), *shape)

    def flat(self):
        return torch.cat([p.detach().flatten() for p in self.p.values()])


class Mean:
    """Mnih et al. 2015: Huber loss; priorities |δ| (Schaul et al. 2016)."""

    def __init__(self, recipe):
        self.atoms = None

    def q(self, out):
        return out

    def losses(self, out, r, discount, out_next):
        y = r + discount * out_next
        return F.smooth_l1_loss(out, y, reduction="none"), (y - out).abs()


class C51:
    """Bellemare et al. 2017: eq. 7 for each atom, then the cross-entropy."""

    def __init__(self, recipe):
        self.atoms = recipe.atoms
        self.z = torch.linspace(recipe.v_min, recipe.v_max, self.atoms, dtype=torch.float64)

    def q(self, out):
        return (out.softmax(-1) * self.z).sum(-1)

    def losses(self, out, r, discount, out_next):
        z, p = self.z, out_next.softmax(-1)
        step = (z[-1] - z[0]) / (self.atoms - 1)
        m = torch.zeros_like(p)
        for j in range(self.atoms):
            Tz = (r + discount * z[j]).clamp(z[0], z[-1])
            for i in range(self.atoms):
                m[:, i] += (1 - (Tz - z[i]).abs() / step).clamp(0, 1) * p[:, j]
        loss = -(m * out.log_softmax(-1)).sum(-1)
        return loss, loss


class Quantiles:
    """Dabney et al. 2018, eq. 9 and 10 with κ = 1, by loops over both sets of quantiles."""

    def __init__(self, recipe):
        self.atoms = recipe.atoms

    def q(self, out):
        return out.mean(-1)

    def losses(self, out, r, discount, out_next):
        loss = torch.zeros_like(r)
        for i in range(self.atoms):
            for j in range(self.atoms):
                u = r + discount * out_next[:, j] - out[:, i]
                tau = (2 * i + 1) / (2 * self.atoms)
                weight = torch.where(u < 0, 1 - tau, tau)
                huber = F.smooth_l1_loss(u, torch.zeros_like(u), reduction="none")
                loss = loss + weight * huber / self.atoms
        return loss, loss


VALUES = {"mean": Mean, "c51": C51, "quantiles": Quantiles}
OPTIMIZERS = {
    "sgd": lambda p, eps: torch.optim.SGD(p, lr=1),
    "momentum": lambda p, eps: torch.optim.SGD(p, lr=1, momentum=0.9),
    "rmsprop": lambda p, eps: torch.optim.RMSprop(p, lr=1, eps=eps),
    "adam": lambda p, eps: torch.optim.Adam(p, lr=1, eps=eps),
    "adamw": lambda p, eps: torch.optim.AdamW(p, lr=1, eps=eps),
}


class Reference:
    """One gradient step after the other; the target net counts them across the bursts."""

    def __init__(self, agent):
        self.recipe = recipe = agent.recipe
        self.online, self.target = Net(agent.online), Net(agent.target)
        self.values = VALUES[recipe.values](recipe)
        parameters = list(self.online.p.values())
        self.optimizer = OPTIMIZERS[recipe.optimizer](parameters, recipe.optimizer_eps)
        self.seen = torch.zeros(0, 3, dtype=torch.float64)
        self.updates = self.clipped = 0

    def normalized(self, obs):
        """With Gymnasium's running moments: a row of mean 0 and variance 1 counts as 1e-4."""
        if not self.recipe.normalize_obs:
            return obs.double()
        n = len(self.seen) + 1e-4
        mean = self.seen.sum(0) / n
        var = (1e-4 + (self.seen**2).sum(0)) / n - mean**2
        return (obs.double() - mean) / (var + 1e-8).sqrt()

    def update(self, batch, lr, generator):
        """The surprises (G, B) that the memory is to be told."""
        told, atoms, recipe = [], self.values.atoms, self.recipe
        all_obs, all_next = self.normalized(batch.obs), self.normalized(batch.next_obs)
        shared = AT_ONCE  # minibatches that the target's present noise has served
        for g in range(G):
            if shared == AT_ONCE or self.updates % recipe.target_interval == 0:
                self.target.draw(generator)
                shared = 0
            shared += 1
            self.online.draw(generator)
            b = torch.arange(B)
            with torch.no_grad():
                out_next = self.target(all_next[g], atoms)
                chosen = self.online(all_next[g], atoms) if recipe.double else out_next
                q = self.values.q(chosen)
                if batch.next_mask is not None:
                    q = q - 1e6 * ~batch.next_mask[g]
                out_next = out_next[b, q.argmax(-1)]
            out = self.online(all_obs[g], atoms)[b, batch.action[g]]
            r, discount = batch.reward[g].double(), batch.discount[g].double()
            losses, surprise = self.values.losses(out, r, discount, out_next)
            told.append(surprise.detach())
            w = 1.0 if batch.weight is None else batch.weight[g].double()
            self.optimizer.zero_grad()
            (w * losses).mean().backward()
            parameters = list(self.online.p.values())
            norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
            self.clipped += norm.item() > recipe.max_grad_norm
            self.optimizer.param_groups[0]["lr"] = lr
            self.optimizer.step()
            self.updates += 1
            if self.updates % recipe.target_interval == 0:
                tau = recipe.target_rate
                with torch.no_grad():
                    for name, p in self.target.p.items():
                        p.copy_((1 - tau) * p + tau * self.online.p[name])
        self.seen = torch.cat([self.seen, batch.obs.double().view(-1, 3)])
        return torch.stack(told)


SUPPORT = {"values": "c51", "atoms": 7, "v_min": -3.0, "v_max": 4.0}
CASES = {
    "c51": SUPPORT,
    "c51, of two atoms": {**SUPPORT, "atoms": 2, "double": False},
    "quantiles": {"values": "quantiles", "atoms": 5},
    "one target for both": {"values": "quantiles", "atoms": 4, "double": False},
    "dueling": {"dueling": True, "head_hidden": (6,)},
    "deep head": {"head_hidden": (6, 5)},
    "noisy": {"noisy": True},
    "noisy and deep": {"noisy": True, "head_hidden": (6,), "double": False},
    "prioritised": {"priority_exponent": 0.6},
    "prioritised quantiles": {"priority_exponent": 1, "values": "quantiles", "atoms": 3},
    "soft target": {"target_rate": 0.05, "target_interval": 1},
    "soft target, now and then": {"target_rate": 0.5, "target_interval": 7},
    "normalised": {"normalize_obs": True},
    "clipped": {"max_grad_norm": 0.05},
    "masked": {**SUPPORT, "masked": True},
    "sgd": {"optimizer": "sgd", "learning_rate": "5e-2:1e-2"},
    "momentum": {"optimizer": "momentum"},
    "rmsprop": {"optimizer": "rmsprop"},
    "adamw": {"optimizer": "adamw"},
    "rainbow": {**SUPPORT, "head_hidden": (6,)},
    "all at once": {**SUPPORT, "head_hidden": (6,), "masked": True, "normalize_obs": True}
    | {"target_rate": 0.3, "optimizer": "adamw", "max_grad_norm": 0.5},
}


@pytest.mark.parametrize("case", CASES)
def test_updates_equal_the_papers(case, monkeypatch):
    changes = dict(CASES[case])
    masked = changes.pop("masked", False)
    monkeypatch.setattr(dqn, "CACHED_ROWS", AT_ONCE * B)
    whole = case in ("rainbow", "all at once")
    agent = agent_for(Rainbow, RainbowRecipe(), **changes) if whole else agent_for(DQN, **changes)
    recipe, reference = agent.recipe, Reference(agent)
    weighted = recipe.priority_exponent > 0
    said = []
    agent.memory.update_priorities = lambda cell, error: said.append((cell.clone(), error.clone()))
    data, start = torch.Generator().manual_seed(3), agent.flat.values.clone()
    for burst in range(BURSTS):
        batch = random_batch(data, masked, weighted)
        kept = batch.obs.clone()
        agent.clock.progress = burst / 10
        generator = torch.Generator()
        generator.set_state(agent.generator.get_state())
        agent.update(batch)
        surprise = reference.update(batch, recipe.learning_rate(burst / 10), generator)
        assert torch.equal(agent.generator.get_state(), generator.get_state())
        close = {"rtol": 0, "atol": 2e-5}
        for ours, theirs in ((agent.online, reference.online), (agent.target, reference.target)):
            found = torch.cat([p.detach().double().flatten() for p in ours.parameters()])
            torch.testing.assert_close(found, theirs.flat(), **close)
        if weighted:
            cells, errors = (torch.stack(x) for x in zip(*said, strict=True))
            assert torch.equal(cells, batch.cell)
            torch.testing.assert_close(errors.double(), surprise, rtol=1e-4, atol=1e-4)
        assert bool(said) == weighted
        said.clear()
        assert torch.equal(batch.obs, kept)
    assert (agent.flat.values - start).abs().max() > 1e-2  # five hundred times the tolerance
    assert (reference.clipped > 0) == (recipe.max_grad_norm < 1)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_an_importance_weight_scales_its_transition_alone(weight):
    """Weight 0 for a row is the mean without it, over the same B."""
    found = []
    for weights in (torch.ones(1, 2), torch.tensor([[1.0, weight]])):
        agent = agent_for(optimizer="sgd", learning_rate="0.1", batch_size=2, priority_exponent=0.5)
        agent.memory.update_priorities = lambda cell, error: None
        before = agent.flat.values.clone()
        batch = ReplayBatch(
            obs=torch.ones(1, 2, 3),
            action=torch.tensor([[2, 2]]),
            reward=torch.tensor([[3.0, 3.0]]),
            discount=torch.zeros(1, 2),
            next_obs=torch.ones(1, 2, 3),
            cell=torch.zeros(1, 2, dtype=torch.int64),
            weight=weights,
        )
        agent.update(batch)
        found.append(agent.flat.values - before)
    torch.testing.assert_close(found[1], found[0] * (1 + weight) / 2, rtol=0, atol=1e-6)


def test_each_update_of_a_noisy_agent_has_noise_of_its_own():
    agent, seen = agent_for(noisy=True), []
    vjp = agent.online.vjp

    def spied(obs):
        seen.append(tuple(agent.online.head.stream.linears[0].noise_out.tolist()))
        return vjp(obs)

    agent.online.vjp = spied
    agent.update(random_batch(torch.Generator().manual_seed(0), False, False))
    assert len(set(seen)) == G
    target = agent.target.head.stream.linears[0].noise_out
    assert tuple(target.tolist()) not in seen  # nor does the target net share any


def test_the_importance_exponent_rises_with_the_run():
    agent = agent_for(priority_exponent=0.5, importance_exponent="0.4:1")
    for progress, beta in ((0.0, 0.4), (0.5, 0.7), (1.0, 1.0)):
        agent.clock.progress = progress
        agent.act(torch.zeros(2, 3), None)
        agent.update(random_batch(torch.Generator().manual_seed(0), False, False))
        assert agent.memory.beta == pytest.approx(beta)


@pytest.mark.parametrize("priority_exponent", [0.0, 0.5])
@pytest.mark.parametrize("values", ["mean", "quantiles"])
def test_a_loss_that_overflows_leaves_the_weights(values, priority_exponent):  # fault 5
    agent = agent_for(
        values=values, priority_exponent=priority_exponent, batch_size=128, buffer_size=1000
    )
    before = agent.flat.values.clone()
    rows = torch.randn(1, 128, 3, generator=torch.Generator().manual_seed(0))
    weighted = priority_exponent > 0
    batch = ReplayBatch(
        obs=rows,
        action=torch.zeros(1, 128, dtype=torch.int64),
        reward=torch.full((1, 128), 1e38),
        discount=torch.zeros(1, 128),
        next_obs=rows,
        cell=torch.arange(128).view(1, 128) if weighted else None,
        weight=torch.ones(1, 128) if weighted else None,
    )
    with pytest.raises(RunError, match="overflowed"):
        agent.update(batch)
    assert torch.equal(agent.flat.values, before)


@pytest.mark.parametrize(("v_min", "v_max"), [(1.0, 1.0), (5.0, -5.0)])
def test_a_support_that_is_none_is_refused(v_min, v_max):
    with pytest.raises(UsageError, match=rf"v_min is {v_min} and v_max is {v_max}; allowed: "):
        agent_for(values="c51", v_min=v_min, v_max=v_max)
    agent_for(values="mean", v_min=v_min, v_max=v_max)  # which has none


@pytest.mark.parametrize(
    ("changes", "streams", "width", "depth"),
    [
        ({"dueling": True, "noisy": True}, {"value", "advantage"}, 4, 1),
        ({"noisy": True, "head_hidden": (6, 5)}, {"stream"}, 4, 3),
        ({**SUPPORT, "dueling": True, "head_hidden": (6,)}, {"value", "advantage"}, 28, 2),
        ({"values": "quantiles", "atoms": 3, "head_hidden": (6,)}, {"stream"}, 12, 2),
    ],
)
def test_the_switches_build_the_network_that_they_name(changes, streams, width, depth):
    agent = agent_for(**changes)
    for network in (agent.online, agent.target):
        assert {name for name, _ in network.head.named_children()} == streams
        sizes = {name: p.shape for name, p in network.head.named_parameters()}
        last = [shape[0] for name, shape in sizes.items() if name.endswith(f"{depth - 1}.weight")]
        assert max(last) == width
        assert sum(name.endswith(".weight") for name in sizes) == depth * len(streams)
        assert any("sigma" in name for name in sizes) == changes.get("noisy", False)
