"""Sentences about classes, for text-to-image models."""
