"""From a config to a trained state: experiment, input, loop, and their checks."""
