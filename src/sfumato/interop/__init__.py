"""The foreign world, quarantined: what the published models are, and what others call their weights."""
