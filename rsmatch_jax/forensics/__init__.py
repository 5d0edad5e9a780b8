"""Tells synthetic pictures from real ones by statistics, before any training."""
