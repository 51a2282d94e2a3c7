"""Metrics: pure functions of pictures and of features."""
