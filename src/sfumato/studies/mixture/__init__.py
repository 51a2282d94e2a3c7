"""Eight Gaussians on a circle: a density that is known, on which every family is trained in seconds and held against it."""
