"""How updates run where an agent learns: devices, CUDA graphs, and what must be finite there."""
