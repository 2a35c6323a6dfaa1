"""Environments that live on a torch device: tensors in, tensors out, no host in between.

The only part of `rlkit.envs` that imports torch. `rlkit.envs.make.make_envs(...,
vectorization="device")` imports it when it is asked for.
"""
