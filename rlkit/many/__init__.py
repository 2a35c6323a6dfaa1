"""Many runs: sweeps over settings and seeds, and searches for better recipes."""
