"""Shows what a trained run's networks look at, and how they arrange images."""
