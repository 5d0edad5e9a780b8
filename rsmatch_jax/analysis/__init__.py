"""Looking at a trained run: what its networks see, know and confuse."""
