"""Datasets on disk: decoded arrays, dataset folders, tfrecord files."""
