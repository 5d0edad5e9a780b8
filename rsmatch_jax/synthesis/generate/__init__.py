"""Pools drawn by text-to-image models."""
