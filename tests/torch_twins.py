"""torch's own attention with the weights of rlkit's."""

import torch
from torch import nn


def torchs(ours):
    """nn.MultiheadAttention with the weights of an `Attention`, random biases among them."""
    for p in ours.parameters():
        if p.ndim == 1:
            nn.init.normal_(p)
    reference = nn.MultiheadAttention(ours.query.in_features, ours.heads)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        reference.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    reference.out_proj.load_state_dict(ours.output.state_dict())
    return reference
