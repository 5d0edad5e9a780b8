"""Compares a pool with the real dataset that it belongs to."""
