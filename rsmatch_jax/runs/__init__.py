"""A run's folder: its files, checkpoints, log and history."""
