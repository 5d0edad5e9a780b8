"""RSMatch: semi-supervised learning with synthetic images in the unlabelled set."""

__version__ = "0.1.0"
