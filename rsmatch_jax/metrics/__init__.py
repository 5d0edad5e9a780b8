"""Evaluates a state: its predictions on each set against ground truth."""
