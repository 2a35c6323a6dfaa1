"""What exact solvers are judged by: every deterministic policy, in rational arithmetic."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
from scipy.sparse import csr_array

from rlkit import MDP


def random_mdp(seed, gamma, *, n_states=4, n_actions=3, grid=8, rewards=(-2, -1, 0, 0, 1)):
    """A small MDP with ragged action sets, rows that miss mass, terminal states and many ties.

    Probabilities are multiples of 1/grid, so that they are exact in float64.
    """
    rng = np.random.default_rng(seed)
    P, r, counts = [], [], []
    for state in range(n_states):
        count = int(rng.integers(0 if state else 1, n_actions + 1))
        counts.append(count)
        for _ in range(count):
            mass = grid if rng.random() < 0.7 else int(rng.integers(0, grid + 1))
            sharp = rng.random() < 0.5
            targets = rng.integers(0, n_states, size=1 if sharp else 3)
            row = np.zeros(n_states)
            np.add.at(row, rng.choice(targets, size=mass), 1.0 / grid)
            P.append(row)
            r.append(float(rng.choice(rewards)))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return MDP.from_pairs(csr_array(np.array(P)), r, offsets, gamma)


def solve_rational(A, b):
    """x with A x = b over the rationals, by Gauss–Jordan elimination."""
    n = len(b)
    M = [[*row, value] for row, value in zip(A, b, strict=True)]
    for i in range(n):
        pivot = next(k for k in range(i, n) if M[k][i] != 0)
        M[i], M[pivot] = M[pivot], M[i]
        M[i] = [x / M[i][i] for x in M[i]]
        for k in range(n):
            if k != i and M[k][i] != 0:
                M[k] = [x - M[k][i] * y for x, y in zip(M[k], M[i], strict=True)]
    return [row[-1] for row in M]


def policies(mdp):
    """All deterministic policies, as a pair number (or None at terminals) per state."""
    spans = [range(a, b) for a, b in itertools.pairwise(mdp.offsets.tolist())]
    return itertools.product(*[span or (None,) for span in spans])


def chain(mdp, pairs):
    """P_π and r_π as fractions."""
    dense, S = mdp.P.toarray(), mdp.n_states
    P = [
        [Fraction(0)] * S if pair is None else [Fraction(float(x)) for x in dense[pair]]
        for pair in pairs
    ]
    return P, [Fraction(0) if pair is None else Fraction(float(mdp.r[pair])) for pair in pairs]


def discounted_optimum(mdp):
    """V* by enumeration, γ < 1."""
    gamma, S = Fraction(mdp.gamma), mdp.n_states
    best = None
    for pairs in policies(mdp):
        P, r = chain(mdp, pairs)
        A = [[(s == t) - gamma * P[s][t] for t in range(S)] for s in range(S)]
        V = solve_rational(A, r)
        best = V if best is None else [max(x, y) for x, y in zip(best, V, strict=True)]
    return best


def undiscounted_optimum(mdp):
    """V* by enumeration at γ = 1; None where it is not finite or not defined somewhere."""
    best = [None] * mdp.n_states
    for pairs in policies(mdp):
        V = undiscounted_values(*chain(mdp, pairs))
        if V is None:
            return None
        best = [
            max((x for x in both if x is not None), default=None)
            for both in zip(best, V, strict=True)
        ]
    return None if None in best else best


def undiscounted_values(P, r):
    """V of a chain at γ = 1, None for -∞ at a state; None alone for a gainful endless loop."""
    S = len(r)
    reach = [[s == t or P[s][t] > 0 for t in range(S)] for s in range(S)]
    for k, i, j in itertools.product(range(S), repeat=3):
        reach[i][j] = reach[i][j] or (reach[i][k] and reach[k][j])
    lossy = [sum(row) < 1 for row in P]
    endless = [not any(reach[s][t] and lossy[t] for t in range(S)) for s in range(S)]
    recurrent = [endless[s] and all(reach[t][s] for t in range(S) if reach[s][t]) for s in range(S)]
    sinking = [False] * S
    for s in range(S):
        if recurrent[s]:
            members = [t for t in range(S) if reach[s][t]]
            if all(r[t] == 0 for t in members):
                continue
            if gain(P, r, members) >= 0:
                return None
            sinking[s] = True
    minus = [any(reach[s][t] and sinking[t] for t in range(S)) for s in range(S)]
    rest = [s for s in range(S) if not minus[s] and not recurrent[s]]
    A = [[(s == t) - P[s][t] for t in rest] for s in rest]
    V = [None if minus[s] else Fraction(0) for s in range(S)]
    for s, value in zip(rest, solve_rational(A, [r[s] for s in rest]), strict=True):
        V[s] = value
    return V


def gain(P, r, members):
    """The average reward a step of a recurrent class: g + h = r + P h with h = 0 at its first."""
    n = len(members)
    A = [
        [Fraction(1), *[(i == j) - P[members[i]][members[j]] for j in range(1, n)]]
        for i in range(n)
    ]
    return solve_rational(A, [r[s] for s in members])[0]
