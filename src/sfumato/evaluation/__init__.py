"""Evaluation: protocols over metrics, with intervals, floors and a manifest."""
