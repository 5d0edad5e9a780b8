"""From images on disk to uint8 batches. Only `tf_*.py` import TensorFlow."""
