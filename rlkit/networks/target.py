"""Target networks: a copy θ⁻ of the parameters that follows them more slowly."""

from __future__ import annotations

from typing import Any

from rlkit.optim import FlatParameters


class TargetParameters:
    """θ⁻ ← θ⁻ + τ·(θ − θ⁻) after every `interval` updates, counted in gradient steps.

    τ = 1 copies at each of them (Mnih et al. 2015); a small τ after every update averages
    (Lillicrap et al. 2016).
    """

    def __init__(
        self, online: FlatParameters, target: FlatParameters, interval: int, rate: float
    ) -> None:
        self.online, self.target = online, target
        self.interval = interval
        self.rate = rate
        self.updates = 0
        target.values.copy_(online.values)

    @property
    def stands_for(self) -> int:
        """Updates until θ⁻ moves next, the one that moves it included."""
        return self.interval - self.updates % self.interval

    def follow(self) -> None:
        """Count an update of θ."""
        self.updates += 1
        if self.updates % self.interval == 0:
            if self.rate == 1:  # a copy, to the bit
                self.target.values.copy_(self.online.values)
            else:
                self.target.values.lerp_(self.online.values, self.rate)

    def get_state(self) -> dict[str, Any]:
        """The count: the parameters are saved with the networks."""
        return {"updates": self.updates}

    def set_state(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
