"""Policies over maps, which say what they would do in any cell: one that plans, one that reacts.

An image's last channel marks the agent's cell, and the others are the map. Cells are numbered row
by row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkit.networks.cnn import Cnn
from rlkit.networks.images import AnyImages
from rlkit.networks.vin import Planner


class PlanningPolicy(nn.Module):
    """A linear layer over ψ(s) (Tamar et al. 2016): images (..., *shape) → logits (..., n)."""

    def __init__(self, planner: Planner, n: int) -> None:
        super().__init__()
        self.planner = planner
        self.policy = nn.Linear(planner.width, n, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.policy(self.planner(x))
        return y

    def at(self, x: Tensor, cells: Tensor) -> Tensor:
        """The logits (N, P, n) of images (N, *shape) were the agent in cells (N, P)."""
        y: Tensor = self.policy(self.planner.at(x, cells))
        return y


class ReactivePolicy(nn.Module):
    """The convolutional network that the paper compares with: the same inputs and outputs.

    Five convolutions with ReLU, pooling after the first and the third, and a linear layer.
    """

    def __init__(self, images: AnyImages, n: int) -> None:
        super().__init__()
        channels, pool = (50, 50, 100, 100, 100), ("max", None, "max", None, None)
        self.cnn = Cnn(images, channels, pool=pool, classes=n)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cnn(x)
        return y

    def at(self, x: Tensor, cells: Tensor) -> Tensor:
        """The logits (N, P, n) of images (N, *shape) were the agent in cells (N, P)."""
        N, P = cells.shape
        planes = self.cnn.images(x)  # (N, channels, H, W)
        maps = planes[:, None, :-1].expand(-1, P, -1, -1, -1)
        agent = F.one_hot(cells, planes[0, 0].numel()).float().view(N, P, 1, *planes.shape[-2:])
        y: Tensor = self.cnn.layers(torch.cat([maps, agent], 2).flatten(0, 1))
        return y.view(N, P, -1)
