"""Updates over 2 and 3 ranks, against one process on the batches of all joined."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from data_parallel_cases import (
    AHEAD,
    CASES,
    UPDATES,
    agent_of,
    batch_of,
    envs_of,
    joined_batch,
    vector,
    work,
)
from several_ranks import Job

from rlkit.networks.normalize import Moments
from rlkit.peers import mean_count, merged


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """For 2 and 3 ranks, what each of them has learned in every case."""
    folders = {size: tmp_path_factory.mktemp(f"ranks-{size}") for size in (2, 3)}
    with Job(folders[2], 2, work) as two, Job(folders[3], 3, work) as three:
        for job in (two, three):
            statuses, said = job.finish()
            assert not any(statuses), said
    return {
        size: [dict(np.load(folder / f"{rank}.npz")) for rank in range(size)]
        for size, folder in folders.items()
    }


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_all_ranks_have_the_same_weights_to_the_bit(weights, case, size):
    first, *others = weights[size]
    for other in others:
        np.testing.assert_array_equal(other[case], first[case])


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_they_are_those_of_one_process_on_the_batches_joined(weights, case, size, monkeypatch):
    joined = Joined(case, size)
    agent = agent_of(case, None, size)
    begin = vector(agent)
    for name in ("ppo", "pqn"):
        monkeypatch.setattr(f"rlkit.agents.{name}.minibatches", joined.minibatches)
    monkeypatch.setattr("rlkit.agents.ppo.minibatch_indices", joined.indices)
    if case == "sac":
        monkeypatch.setattr(agent.place.random, "normal", joined.noise)
    for update in range(UPDATES):
        joined.update = update
        with np.errstate(over="ignore", invalid="ignore"):
            agent.update(joined_batch(case, size, update))
    found = weights[size][0][case]
    assert abs(found - begin).max() > 0.01
    np.testing.assert_allclose(found, vector(agent), rtol=2e-5, atol=2e-5)


class Joined:
    """What ranks draw, each from its own random stream, for one process that has all of it."""

    def __init__(self, case, size):
        self.case, self.size, self.update = case, size, 0
        self.generators = [torch.Generator().manual_seed(100 + rank) for rank in range(size)]
        ends = np.cumsum([0, *(envs_of(case, rank) for rank in range(size))])
        self.envs = [slice(*pair) for pair in pairwise(ends)]

    def rows(self):
        """Of each rank, where its rows are among those of all."""
        if self.case == "ppo lstm":
            return [np.arange(part.start, part.stop) for part in self.envs]
        valid = joined_batch(self.case, self.size, self.update).valid
        if self.case in AHEAD:
            valid = np.ones(valid.shape, dtype=bool)
        number = np.full(valid.shape, -1)
        number[valid] = np.arange(valid.sum())
        return [number[:, part][valid[:, part]] for part in self.envs]

    def minibatches(self, columns, parts, epochs, generator):
        for index in self.indices(None, parts, epochs, None):
            yield tuple(None if column is None else column[index.numpy()] for column in columns)

    def indices(self, count, parts, epochs, random):
        places = self.rows()
        for _ in range(epochs):
            orders = [
                place[torch.randperm(len(place), generator=drawn).numpy()]
                for place, drawn in zip(places, self.generators, strict=True)
            ]
            for part in range(parts):
                yield torch.from_numpy(np.concatenate([_part(x, part, parts) for x in orders]))

    def noise(self, shape):
        two, G, B, n = shape
        share = (two, G, B // self.size, n)
        return torch.cat([torch.empty(share).normal_(generator=g) for g in self.generators], 2)


def _part(order, part, parts):
    return order[round(len(order) * part / parts) : round(len(order) * (part + 1) / parts)]


def test_policies_that_have_changed_enough_stop_all_ranks(weights, monkeypatch):
    """The case of PPO's stop is one: without it the weights are others."""
    monkeypatch.setitem(CASES["ppo kl"][2], "target_kl", 0.0)
    joined = Joined("ppo kl", 2)
    monkeypatch.setattr("rlkit.agents.ppo.minibatches", joined.minibatches)
    agent = agent_of("ppo kl", None, 2)
    for update in range(UPDATES):
        joined.update = update
        agent.update(joined_batch("ppo kl", 2, update))
    assert abs(weights[2][0]["ppo kl"] - vector(agent)).max() > 0.01


def test_a_rank_without_a_step_that_counts_is_among_them():
    assert not batch_of("ppo", 1, 1).valid.any()
    assert batch_of("ppo", 0, 1).valid.any()


class Recorded:
    """The ranks as one of them sees them, with what the others send given beforehand."""

    def __init__(self, *others):
        self.rank, self.size, self.others = 0, 1 + len(others), others

    def add_up(self, x):
        for other in self.others:
            x += other

    def gathered(self, own):
        return torch.stack([own, *self.others])


class Counted(Recorded):
    """One rank alone, which counts its exchanges."""

    exchanges = 0

    def add_up(self, x):
        self.exchanges += 1

    def gathered(self, own):
        self.exchanges += 1
        return super().gathered(own)


@pytest.mark.parametrize(
    ("case", "gradients", "more"),
    [
        # PPO: how many steps count and, each epoch, the moments of its advantages
        ("ppo kl", 6, 1 + 3),
        ("ppo lstm", 9, 1 + 3),
        ("ppo ahead", 12, 3 + 2),  # and the moments of observations and returns
        ("sac", 4, 0),  # two a minibatch, of the critics and of the actor
        ("dqn c51", 2, 0),
        ("r2d2", 1, 0),
    ],
)
def test_ranks_exchange_once_for_each_gradient(case, gradients, more, monkeypatch):
    monkeypatch.setitem(CASES["ppo kl"][2], "target_kl", 1e9)
    peers = Counted()
    agent_of(case, 0, 2, peers).update(batch_of(case, 0, 0))
    assert peers.exchanges == gradients + more


def sent(rows):
    rows = torch.as_tensor(rows, dtype=torch.float64)
    told = [rows.mean(0), rows.var(0, correction=0)] if len(rows) else [torch.zeros(2)] * 2
    return torch.cat([torch.tensor([float(len(rows))]), *told]).double()


@pytest.mark.parametrize("counts", [(5, 3, 8), (0, 4, 0), (0, 0, 0), (1, 1, 1)])
def test_moments_of_all_ranks_rows_are_those_of_the_rows_together(counts):
    rng = np.random.default_rng(0)
    parts = [1e6 + rng.normal(size=(count, 2)) for count in counts]
    together, one = Moments((2,)), Moments((2,), Recorded(*map(sent, parts[1:])))
    together.include(torch.from_numpy(np.concatenate(parts)))
    one.include(torch.from_numpy(parts[0]))
    for name in ("mean", "var", "count"):
        np.testing.assert_allclose(getattr(one, name), getattr(together, name), rtol=1e-9)


def test_counts():
    assert mean_count(7, None) == 7
    assert mean_count(7, Recorded(torch.tensor([2]))) == 4.5
    count, mean, var = merged(0, torch.tensor(torch.nan), torch.tensor(0.0), Recorded())
    assert (float(count), float(mean), float(var)) == (0, 0, 0)
