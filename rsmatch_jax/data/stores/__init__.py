"""What lies on disk: decoded arrays, dataset folders, tfrecord files."""
