"""Convolution, norm and pooling windows in plain numpy, channels last."""

import numpy as np


def windows(x, k, stride, fill=0.0):
    """[N, H, W, C] -> [h, w, N, k, k, C], padded by (k - 1) / 2."""
    pad = (k - 1) // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    rows = range(0, x.shape[1] - k + 1, stride)
    columns = range(0, x.shape[2] - k + 1, stride)
    return np.array([[x[:, r : r + k, c : c + k] for c in columns] for r in rows])


def conv(x, kernel, stride):
    x = windows(x, kernel.shape[0], stride)
    return np.tensordot(x, kernel, ([3, 4, 5], [0, 1, 2])).transpose(2, 0, 1, 3)


def norm(x, params, running):
    scale = params["scale"] / np.sqrt(running["var"] + 1e-5)
    return (x - running["mean"]) * scale + params["bias"]


def relu(x):
    return np.maximum(x, 0)
