"""Solving over 2 and 3 processes that are joined by gloo, against one process; and lost ones."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from distributed_cases import cases, starts

from rlkit import MDP, solve
from rlkit.distributed import join
from rlkit.envs.models import make_model, model_in_parts
from rlkit.errors import UsageError
from rlkit.mdp.distributed.partition import checked, even, weighted
from rlkit.mdp.solution import Solution
from rlkit.registry import MODELS

CASES = {name: number for number, name in enumerate(cases())}
TOL = 1e-6
SECONDS = 100  # torch alone may take ten to be imported on a busy machine


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(rank, size, port):
    place = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(x) for name, x in place.items()}}


def begin(arguments, rank, size, port):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment(rank, size, port),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rank_of(model, *options, rank, size, port):
    arguments = ["-m", "rlkit", "solve", *model.split(), "--distributed", *options]
    return begin(arguments, rank, size, port)


def finish(processes):
    """(status, stdout, stderr) of each."""
    try:
        said = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *words) for process, words in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """For 2 and 3 ranks, what each of them reports; and where the solutions are."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("distributed_cases.py")
    ports = {size: free_port() for size in (2, 3)}
    processes = [
        begin([script, folder], rank, size, ports[size]) for size in ports for rank in range(size)
    ]
    for status, _, err in finish(processes):
        assert status == 0, err
    reports = {
        size: [json.loads((folder / f"{rank}-of-{size}.json").read_text()) for rank in range(size)]
        for size in ports
    }
    return folder, reports


def made(name):
    model, gamma = cases()[name][0]()
    return model if isinstance(model, MDP) else model.mdp(gamma)


@pytest.mark.parametrize("name", CASES)
def test_the_answer_is_that_of_one_process_on_any_partition(jobs, name):
    folder, reports = jobs
    mdp = made(name)
    alone = solve(mdp, tol=1e-9)
    found = [Solution.load(folder / f"{size}-{CASES[name]}.npz") for size in (2, 3)]
    for solution, size in zip(found, (2, 3), strict=True):
        np.testing.assert_allclose(solution.values, alone.values, rtol=0, atol=TOL)
        assert (solution.lower <= alone.upper).all()
        assert (solution.upper >= alone.lower).all()
        facts = [report["facts"][name] for report in reports[size]]
        assert solution.error_bound <= facts[0]["error_bound"] <= TOL
        np.testing.assert_array_equal(solution.policy, alone.policy)
        np.testing.assert_array_equal(solution.offsets, mdp.offsets)
        np.testing.assert_array_equal(solution.actions, mdp.actions)
        np.testing.assert_allclose(solution.q, alone.q, rtol=0, atol=2 * TOL)
        if mdp.start is not None:
            assert solution.start_value == pytest.approx(alone.start_value, abs=TOL)
        assert [facts[0]["n_pairs"], facts[0]["n_transitions"]] == [mdp.n_pairs, mdp.P.nnz]
    two, three = found
    np.testing.assert_array_equal(two.values, three.values)  # to the last bit
    np.testing.assert_array_equal(two.lower, three.lower)
    np.testing.assert_array_equal(two.upper, three.upper)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_no_more_is_sent_than_the_graph_asks_for(jobs, name, size):
    mdp = made(name)
    cuts = starts(CASES[name], mdp.n_states, size)
    reports = [report["facts"][name] for report in jobs[1][size]]
    halos = []
    for first, last in pairwise(cuts):
        rows = mdp.P[mdp.offsets[first] : mdp.offsets[last]]
        halos.append(len({j for j in rows.indices.tolist() if not first <= j < last}))
    needed, everything = sum(halos), (size - 1) * mdp.n_states
    longest = int(np.diff(cuts).max())
    for halo, facts in zip(halos, reports, strict=True):
        if facts["exchange"] == "halo":
            assert (facts["halo"], facts["bytes_per_sweep"]) == (halo, 8 * needed)
        else:
            assert (facts["halo"], facts["bytes_per_sweep"]) == (
                size * longest,
                8 * size * (size - 1) * longest,
            )
    if cases()[name][1].get("exchange", "auto") == "auto":
        assert (reports[0]["exchange"] == "all-gather") == (needed > 0.8 * everything)


def test_each_rank_holds_its_own_states_and_the_memory_of_a_rank_shrinks(jobs):
    folder, reports = jobs
    mdp = made("queues")
    S, L, N = mdp.n_states, mdp.n_pairs, mdp.P.nnz
    whole = 4 * (S + L) + 12 * N + 12 * L + 4 * S + 16 * S  # off, ptr; idx, p; r, labels; ...
    for size in (2, 3):
        facts = [report["facts"]["queues"] for report in reports[size]]
        assert sum(fact["values"] for fact in facts) == S
        halos = sum(24 * fact["halo"] for fact in facts)  # V, TV and what is sent
        total = sum(fact["rank_bytes"] for fact in facts)
        assert total == whole + halos + 8 * size
        first, last = (np.load(folder / f"part-{rank}-of-{size}.npz") for rank in (0, size - 1))
        assert first["first"] == 0
        assert last["last"] == S
        values = Solution.load(folder / f"{size}-{CASES['queues']}.npz").values
        np.testing.assert_array_equal(first["values"], values[: first["last"]])
    two, three = (max(report["memory"] for report in reports[size]) for size in (2, 3))
    assert three < 0.75 * two


@pytest.mark.parametrize("size", [2, 3])
def test_an_error_on_one_rank_is_told_by_all_of_them(jobs, size):
    errors = [report["errors"] for report in jobs[1][size]]
    words = "state 49, action 0: reward nan is not a finite number"
    assert errors[size - 1][0] == f"ModelError: {words}"
    for other in errors[:-1]:
        assert other[0] == f"UsageError: rank {size - 1}: {words}"
    for found in errors:
        if size == 3:
            assert found[1].startswith("UsageError: 3 ranks for 2 states: ")
        else:
            assert found[1] == ""


def test_a_rank_that_is_killed_ends_the_others_with_one_line():
    port, model = free_port(), "two-queues --env-option capacity=300 --gamma 0.999999"
    slow = ("--method", "value-iteration")  # hundreds of thousands of sweeps
    ranks = [rank_of(model, *slow, rank=rank, size=3, port=port) for rank in range(3)]
    until = time.monotonic() + SECONDS
    while "certified error" not in ranks[0].stderr.readline():
        assert time.monotonic() < until
    ranks[1].send_signal(signal.SIGKILL)
    (status, out, err), killed, other = finish(ranks)
    assert (status, killed[0], other[0]) == (1, -signal.SIGKILL, 1)
    (line,) = [line for line in err.splitlines() if "certified error" not in line]
    lost = r"Error: rank {} of 3: the connection to .* broke"
    # On a machine that is too busy for rank 2 to answer in time, it counts as lost, and speaks too.
    assert re.fullmatch(lost.format(0) + "; no sign of rank 1(, 2)?", line)
    assert (out, other[1]) == ("", "")
    assert re.fullmatch(f"({lost.format(2)}\n)?", other[2])


def test_ranks_that_do_not_come_or_do_not_fit_are_named():
    ports = [free_port() for _ in range(3)]
    short = ("--rank-timeout", "1")
    processes = [
        rank_of("chain", *short, rank=0, size=3, port=ports[0]),
        rank_of("chain", *short, rank=1, size=2, port=ports[1]),
        rank_of("chain", "--rank-timeout", "60", rank=0, size=2, port=ports[2]),
        rank_of("chain", "--rank-timeout", "60", rank=1, size=3, port=ports[2]),
    ]
    alone, headless, two, (status, out, err) = finish(processes)
    told = f"Error: rank 1, 2 of 3 did not come to 127.0.0.1:{ports[0]} within 1 s"
    assert (alone[0], alone[2].startswith(told)) == (1, True), alone
    told = f"Error: rank 1 of 2 waited 1 s for rank 0 at 127.0.0.1:{ports[1]}, which does not"
    assert (headless[0], headless[2].startswith(told)) == (1, True), headless
    mismatch = "was started with WORLD_SIZE="
    assert (two[0], mismatch in two[2]) == (2, True), two
    assert (status in (1, 2), out, err.count("\n")) == (True, "", 1), err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"RANK": None, "MASTER_PORT": None}, "RANK, MASTER_PORT missing from the environment"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0' in the environment; allowed: 1 or more"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two' in the environment"),
        ({"RANK": "2"}, "RANK='2' in the environment; allowed: 0 to 1"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT='70000' in the environment; allowed: 1 to 65535"),
    ],
)
def test_an_environment_that_names_no_rank_is_refused(monkeypatch, changes, words):
    for name, value in {**environment(0, 2, 29_500), **changes}.items():
        monkeypatch.setenv(name, value or "")
    with pytest.raises(UsageError, match=words):
        join()


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_out_is_a_positive_number(timeout):
    with pytest.raises(UsageError, match="rank_timeout"):
        join(timeout)


def test_without_torchrun_the_command_says_how_to_start_it(cli, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    called = cli("solve", "chain", "--distributed")
    assert called.status == 2
    assert "start every rank with 'torchrun" in called.error
    refused = cli("solve", "chain", "--distributed", "--compare", "all")
    assert refused.error.startswith("--compare does not go with --distributed")


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.in_parts])
def test_the_parts_of_a_named_model_are_the_model(name):
    options = {"states": 6_000} if name == "garnet" else {}  # which draws some 2,600 at a time
    whole = make_model(name, None, options).mdp
    blocks = []
    for first, last in pairwise(starts(5, whole.n_states, 3)):
        model, gamma = model_in_parts(name, None, options)
        blocks += model.part(first, last)
    assert (gamma, model.n_states) == (whole.gamma, whole.n_states)
    columns = zip(*(vars(block).values() for block in blocks), strict=True)
    data, indices, lengths, r, actions, pairs = map(np.concatenate, columns)
    np.testing.assert_array_equal(indices, whole.P.indices)
    np.testing.assert_array_equal(lengths, np.diff(whole.P.indptr))
    np.testing.assert_allclose(data, whole.P.data, rtol=0, atol=1e-12)
    np.testing.assert_allclose(r, whole.r, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(actions, whole.actions)
    np.testing.assert_array_equal(pairs, np.diff(whole.offsets))
    if whole.start is not None:
        assert np.flatnonzero(whole.start).tolist() == [*model.start]


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_a_partition_gives_every_state_to_one_rank(ranks):
    weights = np.array([0.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 30.0, 0.0])
    for cuts in (even(10, ranks), weighted(weights, ranks)):
        assert checked(cuts, 10, ranks).tolist() == cuts.tolist()
    assert np.diff(even(10, ranks)).max() - np.diff(even(10, ranks)).min() <= 1
    shares = [weights[a:b].sum() for a, b in pairwise(cuts)]
    assert max(shares) <= weights.sum() / ranks + weights.max()


@pytest.mark.parametrize(
    "cuts", [[0, 10], [0, 5, 5, 10], [1, 5, 7, 10], [0, 5, 7, 9], [0, 7, 5, 10]]
)
def test_what_is_no_partition_is_refused(cuts):
    with pytest.raises(UsageError, match="must be 4 numbers for 3 ranks"):
        checked(cuts, 10, 3)


def test_more_ranks_than_states_are_refused():
    with pytest.raises(UsageError, match="4 ranks for 3 states: some would have none; start 3"):
        even(3, 4)
    with pytest.raises(UsageError, match="4 ranks for 3 states"):
        weighted(np.ones(3), 4)
