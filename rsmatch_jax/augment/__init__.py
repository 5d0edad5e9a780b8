"""Weak and strong views of a batch."""
