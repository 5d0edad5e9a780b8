"""A pool beside the real set it is for."""
