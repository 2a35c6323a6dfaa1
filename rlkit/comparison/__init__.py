"""Runs compared: learning curves over seeds, their intervals, and the exact optimum."""
