"""Runs of runs: what compares models with each other."""
