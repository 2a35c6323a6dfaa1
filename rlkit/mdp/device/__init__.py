"""Finite MDPs on a GPU. The package imports torch, and is itself imported for a device alone.

rows             a model's rows on a device, in two layouts, and sweeps by torch's operations
triton_kernels   the same sweeps as one kernel each
sweep            which of the two
upload           a model of the host's memory
generate         a model that is made on the device and never leaves it
grids            gridworlds of any size, made there
proof            certified bounds
solve            value iteration and modified policy iteration
"""
