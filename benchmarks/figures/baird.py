"""The deadly triad, Sutton & Barto (2018), figure 11.2: Baird's counterexample, and target nets.

    python benchmarks/figures/baird.py [--out FILE.png]

Seven states, linear values v̂(s, w) of eight weights, no rewards, γ = 0.99. The behaviour goes to
any state at random; the target policy goes to the seventh. Both values and their update are linear,
so whether they converge can be computed: in one update w becomes M·w, and v̂ becomes T·v̂, where the
largest modulus of T's eigenvalues, its spectral radius, is below 1 or not.

- Semi-gradient TD(0), off-policy, and semi-gradient DP: both diverge, as in the book's figure.
- With a target net, w⁻, that is copied from w every C updates, v̂ becomes in those updates

      T_C = B^C + (I − B^C)·γP,   B = I − α·X Xᵀ D,

  for features X (7, 8), states weighted by D = I/7, and P of the target policy. The features can
  represent any values of the seven states, so a regression on fixed targets comes to fit them, and
  for large C T_C becomes γP, which contracts. For small C it is as before. This is dynamic
  programming's own contraction: it needs C to be large enough, and features that fit.
- Where they don't, no C helps: in example 11.1 (Tsitsiklis and Van Roy's), with values w and 2w, a
  regression on fixed targets that is solved multiplies w by γ(6 − 4ε)/5                (eq. 11.10).
- On-policy, where states are weighted as the policy visits them, TD converges without a target
  net (Tsitsiklis & Van Roy 1997): here, for the behaviour's own values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drawing import arguments, canvas, finish, line, rule, save, table
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Matrix = NDArray[np.float64]

GAMMA, ALPHA = 0.99, 0.01
STATES = 7
STEPS = 1000
FIRST = np.array([1.0, 1, 1, 1, 1, 1, 10, 1])  # the weights that the book begins with
PERIODS = (1, 50, 100, 500)  # of the target net
TD_PERIODS = (100,)
TARGET_STEPS = 30_000
SOLVED = 10**6  # as a period: fitted to the last bit
EPSILON = 0.1  # of example 11.1
SOURCE = "rlkit · Sutton & Barto (2018), figure 11.2 and example 11.1 · benchmarks/figures/baird.py"


def features() -> Matrix:
    """X (7, 8): v̂ of states 1 to 6 is 2·w_i + w_8, of state 7 w_7 + 2·w_8."""
    X = np.zeros((STATES, 8))
    X[:6, :6] = 2 * np.eye(6)
    X[:6, 7], X[6, 6], X[6, 7] = 1, 1, 2
    return X


def to_the_seventh() -> Matrix:
    """P (7, 7) of the target policy."""
    P = np.zeros((STATES, STATES))
    P[:, 6] = 1
    return P


def spectral_radius(T: Matrix) -> float:
    return float(np.abs(np.linalg.eigvals(T)).max())


def one_period(X: Matrix, P: Matrix, D: Matrix, C: int, gamma: float = GAMMA) -> Matrix:
    """T_C, by which v̂ is multiplied in C updates towards targets that stay: see the module."""
    n = len(X)
    B_C = np.linalg.matrix_power(np.eye(n) - ALPHA * X @ X.T @ D, C)
    return np.asarray(B_C + (np.eye(n) - B_C) @ (gamma * P))


def baird(C: int = 1) -> float:
    """The spectral radius of C updates with a target net on Baird's counterexample."""
    return spectral_radius(one_period(features(), to_the_seventh(), np.eye(STATES) / STATES, C))


def on_policy() -> float:
    """That of one update for the behaviour's own values, without a target net."""
    uniform = np.full((STATES, STATES), 1 / STATES)
    return spectral_radius(one_period(features(), uniform, np.eye(STATES) / STATES, 1))


def example_11_1(C: int) -> float:
    """That of C updates with a target net in example 11.1, where w is the only weight."""
    x = np.array([1.0, 2.0])
    fitted = GAMMA * x @ [2, 2 * (1 - EPSILON)] / (x @ x)  # γ(6 − 4ε)/5
    left = (1 - ALPHA * (x @ x) / 2) ** C
    return float(left + (1 - left) * fitted)


def semi_gradient_dp(steps: int = STEPS, C: int = 1) -> Matrix:
    """The weights (steps + 1, 8) of semi-gradient DP, its target copied every C updates.

    w ← w + α/|S|·Σ_s (E[R + γ·v̂(S', w⁻) | s] − v̂(s, w))·∇v̂(s, w)                  (eq. 11.9)
    """
    X, P = features(), to_the_seventh()
    w, weights = FIRST, [FIRST]
    for k in range(steps):
        if k % C == 0:
            target = GAMMA * P @ X @ w
        w = w + ALPHA / STATES * X.T @ (target - X @ w)
        weights.append(w)
    return np.array(weights)


def semi_gradient_td(steps: int = STEPS, C: int = 1, seed: int = 0) -> Matrix:
    """The weights (steps + 1, 8) of off-policy semi-gradient TD(0), by steps of the behaviour.

    w ← w + α·ρ·(R + γ·v̂(S', w⁻) − v̂(S, w))·∇v̂(S, w)                        (eqs. 11.2, 11.3)
    """
    X, rng = features(), np.random.default_rng(seed)
    w, weights, s = FIRST, [FIRST], int(rng.integers(STATES))
    for k in range(steps):
        if k % C == 0:
            w_target = w
        solid = rng.random() < 1 / STATES  # to the seventh; else to one of the six others
        s_next = 6 if solid else int(rng.integers(6))
        rho = float(STATES) if solid else 0.0  # π(a|s)/b(a|s), where π is always solid
        delta = GAMMA * X[s_next] @ w_target - X[s] @ w
        w = w + ALPHA * rho * delta * X[s]
        weights.append(w)
        s = s_next
    return np.array(weights)


def largest_value(weights: Matrix) -> NDArray[np.float64]:
    """max_s |v̂(s, w)| for weights (k, 8); all values truly are 0."""
    return np.asarray(np.abs(weights @ features().T).max(-1))


def least_period() -> int:
    """The least C from which on the target net's updates contract."""
    return next(C for C in range(1, 10_000) if baird(C) < 1)


@dataclass(frozen=True)
class Found:
    """Weights of TD and DP, and of both with a target net by its period."""

    td: Matrix
    dp: Matrix
    td_target: dict[int, Matrix]
    dp_target: dict[int, Matrix]


def measure() -> Found:
    td_target = {C: semi_gradient_td(TARGET_STEPS, C) for C in TD_PERIODS}
    dp_target = {C: semi_gradient_dp(TARGET_STEPS, C) for C in PERIODS}
    return Found(semi_gradient_td(), semi_gradient_dp(), td_target, dp_target)


def figure(found: Found) -> Figure:
    """Weights without a target net, values with one, and the spectral radius by its period."""
    drawn, panels = canvas(4, "The deadly triad: Baird's counterexample", SOURCE)
    td, dp, values, radii = panels
    for axes, weights, name, unit in (
        (td, found.td, "TD(0)", "step"),
        (dp, found.dp, "DP", "sweep"),
    ):
        for k in range(6):
            line(axes, 0, range(len(weights)), weights[:, k], "w₁ to w₆" if k == 0 else None)
        line(axes, 1, range(len(weights)), weights[:, 6], "w₇")
        line(axes, 2, range(len(weights)), weights[:, 7], "w₈")
        finish(axes, f"semi-gradient {name}", unit, "weight" if axes is td else "")
    curves = {f"DP, C = {C}": weights for C, weights in found.dp_target.items()}
    curves |= {f"TD(0), C = {C}": weights for C, weights in found.td_target.items()}
    for k, (label, weights) in enumerate(curves.items()):
        line(values, k, range(len(weights)), largest_value(weights), label, width=1.3)
    values.set(yscale="log", ylim=(1e-6, 1e6))
    finish(values, "with a target net", "update", "largest |v̂(s)|, truly 0")
    periods = np.unique(np.geomspace(1, 10_000, 200).astype(int))
    line(radii, 0, periods, [baird(C) for C in periods], "Baird")
    line(radii, 1, periods, [example_11_1(C) for C in periods], "example 11.1")
    rule(radii, 1.0, "contracts below", below=True)
    radii.set(xscale="log")
    finish(radii, "spectral radius of C updates", "period C of the target net", "")
    for axes, place in (
        (td, "upper left"),
        (dp, "upper left"),
        (values, None),
        (radii, "center right"),
    ):
        axes.legend(frameon=False, fontsize=8, loc=place)
    return drawn


def rows(found: Found) -> list[list[str]]:
    """The exact spectral radius of each method beside what it came to."""

    def row(name: str, C: int, weights: Matrix) -> list[str]:
        after = f"{largest_value(weights)[-1]:.3g} after {len(weights) - 1:,}"
        return [name, str(C), f"{baird(C):.5f}", after]

    return [
        row("Baird, DP", 1, found.dp),
        row("Baird, TD(0)", 1, found.td),
        *(row("Baird, DP", C, weights) for C, weights in found.dp_target.items() if C > 1),
        *(row("Baird, TD(0)", C, weights) for C, weights in found.td_target.items()),
        ["Baird, targets fitted", "∞", f"{baird(SOLVED):.5f}", ""],
        ["example 11.1", "1", f"{example_11_1(1):.5f}", ""],
        ["example 11.1, targets fitted", "∞", f"{example_11_1(SOLVED):.5f}", ""],
        ["Baird's features, on-policy TD(0)", "1", f"{on_policy():.5f}", ""],
    ]


def main() -> None:
    told = arguments(__doc__, "baird")
    found = measure()
    table(["what", "C", "spectral radius of C updates", "largest value, truly 0"], rows(found))
    print(f"\nBaird's updates contract from C = {least_period()} on.")
    save(figure(found), told.out)


if __name__ == "__main__":
    main()
