"""A trained model without anything of training."""
