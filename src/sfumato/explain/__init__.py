"""Pictures for people: what a model does, measured and drawn."""
