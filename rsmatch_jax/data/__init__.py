"""From images on disk to uint8 batches. TensorFlow is imported in `tf_*.py` alone."""
