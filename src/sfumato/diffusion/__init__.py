"""The mathematics of diffusion; networks are injected."""
