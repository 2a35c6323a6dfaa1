"""Exact solutions over several processes or machines; see `solve_distributed` in solve.py."""
