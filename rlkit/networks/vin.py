"""Value iteration networks (Tamar et al. 2016): a convolutional network that is value iteration.

On a grid, one sweep of value iteration is a convolution and a maximum over its channels: each
channel of the filter is an action, its 3x3 weights of V are γ times the probabilities of moving to
the neighbouring cells, and its weights of r the reward. Applied K times with the same weights this
is K sweeps of a model that is learned with everything else, by backpropagation through them.

Images mark the cell that the agent is in by their last channel; the others are the map.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkit.errors import UsageError
from rlkit.networks.images import AnyImages, as_images
from rlkit.networks.vin_kernels import is_compiled_for, swept

HIDDEN, ACTIONS = 32, 18  # channels of f_R's layer and of Q̄: 150 and 10 in the paper (§4.1)
DISCOUNT, SHARPNESS = 0.95, 7.0  # of the model that it begins with


class ValueIteration(nn.Module):
    """The VI module: K sweeps from V̄ = 0 over a reward image, (N, 1, H, W) → Q̄ (N, A, H, W).

    `reward` and `transition` are the weights W^r and W^v of eq. (2), (A, 1, 3, 3): channel ā and
    cell (i, j) of the latter weigh V̄ of the neighbour in row i − 1 and column j − 1 from here.
    Beyond the edge r̄ and V̄ are 0.

    The model that it begins with is a random one, but a model: W^r is a distribution P, so that r̄
    is earned where one arrives, W^v is γP, and nine actions in turn lead mostly to nine different
    cells, the neighbours and where they began. From weights around 0 values spread like heat, and
    what is then learned plans badly for long.
    """

    def __init__(self, actions: int, k: int) -> None:
        super().__init__()
        self.k = k
        shape = (actions, 1, 3, 3)
        dealt = [torch.randperm(9) for _ in range(-(-actions // 9))]
        mostly = F.one_hot(torch.cat(dealt)[:actions], 9)
        P = torch.softmax(SHARPNESS * mostly + torch.randn(actions, 9), 1).view(shape)
        self.reward = nn.Parameter(P)
        self.transition = nn.Parameter(DISCOUNT * P)

    def forward(self, r: Tensor) -> Tensor:
        # Q̄(ā, i', j') = Σ_{i, j} W^r_{ā,i,j}·r̄(i' − i, j' − j) + W^v_{ā,i,j}·V̄(i' − i, j' − j)
        # V̄(i, j) = max_ā Q̄(ā, i, j)             (eq. 2; torch's kernels are these mirrored)
        expected_r = F.conv2d(r, self.reward, padding=1)  # the same in every sweep
        if is_compiled_for(expected_r):
            V = swept(expected_r, self.transition, self.k - 1)
            return expected_r + F.conv2d(V, self.transition, padding=1)
        Q: Tensor = expected_r  # the first, from V̄ = 0
        for _ in range(self.k - 1):
            V = Q.max(1, keepdim=True).values
            Q = expected_r + F.conv2d(V, self.transition, padding=1)
        return Q


class Planner(nn.Module):
    """A planner as an encoder: images (..., *shape) → Q̄ at the agent's cell, (..., actions).

    Args:
        images: the shape of one observation, or an `Images`; two channels or more.
        k: K, the sweeps; 0: 5/4 of the map's longer side, about as the paper has it.
        hidden: channels of the reward's hidden layer.
        actions: channels of Q̄; they need not be the environment's actions.

    Raises UsageError for images without a channel to spare.
    """

    def __init__(
        self, images: AnyImages, k: int = 0, hidden: int = HIDDEN, actions: int = ACTIONS
    ) -> None:
        super().__init__()
        self.images = as_images(images)
        shape, channels = self.images.shape, self.images.channels
        if len(self.images.size) != 2 or channels < 2:
            raise UsageError(
                f"observations of shape {shape} hold no map and agent; the trunk 'vin' takes "
                "images of 2 channels or more, the last of which marks the agent's cell"
            )
        self.width = actions
        # f_R: r̄ = W·relu(W'·map + b)
        self.features = nn.Conv2d(channels - 1, hidden, 3, padding=1)
        self.reward = nn.Conv2d(hidden, 1, 1, bias=False)
        self.plan = ValueIteration(actions, k or math.ceil(1.25 * max(self.images.size)))

    def forward(self, x: Tensor) -> Tensor:
        planes = self.images(x)  # (N, channels, H, W)
        # Attention (§3.1): ψ(s) = Q̄(·, s)
        psi = (self._plan(planes) * planes[:, -1:]).sum((2, 3))  # (N, actions)
        y: Tensor = psi.view(*x.shape[: x.ndim - len(self.images.shape)], self.width)
        return y

    def at(self, x: Tensor, cells: Tensor) -> Tensor:
        """Q̄ (N, P, actions) of images (N, *shape) were the agent in cells (N, P), row by row.

        One plan is good for all of them.
        """
        Q = self._plan(self.images(x)).flatten(2)  # (N, actions, H·W)
        return Q.gather(2, cells.unsqueeze(1).expand(-1, self.width, -1)).transpose(1, 2)

    def _plan(self, planes: Tensor) -> Tensor:
        Q: Tensor = self.plan(self.reward(torch.relu(self.features(planes[:, :-1]))))
        return Q
