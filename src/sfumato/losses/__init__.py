"""Losses: pure functions of tensors and features."""
