"""The groups of statistics of `features`, each a function of a chunk of pictures.

A group gets channels [3, N, H, W], planes (grey, R - G, B - G, each [N, H, W]) and the
Laplacians of the planes (each [N, H-2, W-2]), all float32 in levels. It returns its
columns, [N] or [N, F].
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from rsmatch_jax.forensics import pictures

RINGS = 8
_SAMPLE = 8192  # at most so many values of a picture and plane for a distribution
# Between whole levels, which rounding must not move to another bin.
_EDGES = np.array([0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 63.5], np.float32)
_EDGES = np.concatenate([-_EDGES[::-1], _EDGES])
_PAIRS = (0, 1), (1, 2), (0, 2)
_SHIFTS = (
    *((0, 1), (1, 0), (1, 1), (0, 2), (2, 0)),
    *((2, 2), (0, 3), (3, 0), (0, 4), (4, 0)),
)
_AROUND = (0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)
_Group: TypeAlias = Callable[
    [np.ndarray, list[np.ndarray], list[np.ndarray]], list[np.ndarray]
]


def _spectrum(channels, planes, laplacians):
    from scipy import fft  # lazy

    height, width = planes[0].shape[1:]
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    across = fft.rfftfreq(width)
    radius = np.hypot(fft.fftfreq(height)[:, None], across).ravel()
    rings = np.minimum((radius / np.sqrt(0.5) * RINGS).astype(int), RINGS - 1)
    # The real transform has half of the frequencies; the other half counts too.
    twice = np.where((across == 0) | (across == 0.5), 1, 2)
    weights = np.broadcast_to(twice, (height, len(across))).ravel() * (radius > 0)
    means = np.zeros((len(rings), RINGS), np.float32)
    means[np.arange(len(rings)), rings] = weights
    means = means[:, means.any(0)]
    means /= means.sum(0)
    columns = []
    for plane in planes:
        centred = (plane - plane.mean((1, 2), keepdims=True)) * window
        transform = fft.rfft2(centred)
        power = np.log(transform.real**2 + transform.imag**2 + 1e-3)
        columns.append(power.reshape(len(plane), -1) @ means)
    return columns


def _residual(channels, planes, laplacians):
    bins = (np.searchsorted(_EDGES, _sample(r)) for r in laplacians)
    return [_histogram(b, len(_EDGES) + 1) for b in bins]


def _histogram(values: np.ndarray, bins: int) -> np.ndarray:
    """Returns the shares of whole numbers below `bins` in each picture, [N, bins]."""
    rows = values.reshape(len(values), -1) + np.arange(len(values))[:, None] * bins
    counts = np.bincount(rows.ravel(), minlength=len(values) * bins)
    return counts.reshape(len(values), bins) / rows.shape[1]


def _differences(channels, planes, laplacians):
    columns = []
    for plane in planes:
        for axis in (1, 2):
            for order in (1, 2):
                step = _sample(np.diff(plane, order, axis=axis))
                levels = _quantiles(np.abs(step), (0.1, 0.25, 0.5, 0.75, 0.9, 0.97))
                centred = step - step.mean(1, keepdims=True)
                squares = centred * centred
                kurtosis = (squares**2).mean(1) / (squares.mean(1) + 1e-3) ** 2
                columns += [np.log1p(levels), np.log(kurtosis + 0.1)]
    return columns


def _sample(values: np.ndarray) -> np.ndarray:
    """Returns at most _SAMPLE values of each picture at equal distances, [N, V]."""
    values = values.reshape(len(values), -1)
    # An odd step, so that it meets all columns of a picture of even width.
    step = -(-values.shape[1] // _SAMPLE) | 1
    return values[:, ::step] if values.shape[1] > _SAMPLE else values


def _quantiles(values: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """Returns the order statistics at these shares, [N, len(shares)]."""
    ranks = np.round(np.array(shares) * (values.shape[1] - 1)).astype(int)
    return np.sort(values, axis=1)[:, ranks]


def _dct(channels, planes, laplacians):
    from scipy import fft  # lazy

    grey = planes[0]
    # Overlapping blocks while pictures are small; at most 32 blocks along each axis.
    steps = [max(4, (size - pictures.BLOCK) // 31) for size in grey.shape[1:]]
    side = pictures.BLOCK
    blocks = np.lib.stride_tricks.sliding_window_view(grey, (side, side), axis=(1, 2))
    blocks = blocks[:, :: steps[0], :: steps[1]].reshape(len(grey), -1, side, side)
    basis = fft.dct(np.eye(side, dtype=np.float32), axis=0, norm="ortho")
    magnitude = np.abs(basis @ blocks @ basis.T).mean(1)
    return [np.log(magnitude.reshape(len(grey), -1)[:, 1:] + 0.5)]


def _colour(channels, planes, laplacians):
    levels = np.stack([_sample(channel) for channel in channels])
    mean = levels.mean(2)
    centred = levels - mean[:, :, None]
    squares = centred * centred
    deviation = np.sqrt(squares.mean(2))
    skewness = (squares * centred).mean(2) / (deviation + 1) ** 3
    kurtosis = (squares * squares).mean(2) / (deviation + 1) ** 4
    correlation = [
        (centred[i] * centred[j]).mean(1) / ((deviation[i] + 1) * (deviation[j] + 1))
        for i, j in _PAIRS
    ]
    largest = levels.max(0)
    chroma = largest - levels.min(0)
    saturation = chroma / (largest + 1)
    clipped = [(levels <= 2).mean((0, 2)), (levels >= 253).mean((0, 2))]
    columns = [*mean, *deviation, *skewness, *np.log(kurtosis + 0.1), *correlation]
    columns += [chroma.mean(1), chroma.std(1), saturation.mean(1), saturation.std(1)]
    columns += [np.abs(levels[i] - levels[j]).mean(1) for i, j in _PAIRS]
    return columns + clipped


def _correlation(channels, planes, laplacians):
    columns = []
    for high_pass in (
        pictures.laplacian,
        lambda plane: np.diff(plane, axis=1),
        lambda plane: np.diff(plane, axis=2),
    ):
        residuals = [high_pass(channel) for channel in channels]
        energy = [_mean_product(r, r) + 1 for r in residuals]
        columns += [
            _mean_product(residuals[i], residuals[j]) / np.sqrt(energy[i] * energy[j])
            for i, j in _PAIRS
        ]
        columns += [np.log(e) for e in energy]
    for residual in laplacians:
        energy = _mean_product(residual, residual) + 1
        height, width = residual.shape[1:]
        for down, right in _SHIFTS:
            moved = residual[:, down:, right:]
            still = residual[:, : height - down, : width - right]
            columns.append(_mean_product(moved, still) / energy)
    return columns


def _mean_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("nhw,nhw->n", a, b) / (a.shape[1] * a.shape[2])


def _patterns(channels, planes, laplacians):
    return [np.sqrt(_histogram(_PATTERNS[_codes(plane)], 10)) for plane in planes]


def _codes(plane: np.ndarray) -> np.ndarray:
    """Returns a bit for each of 8 neighbours that is brighter, uint8 [N, H-2, W-2]."""
    height, width = plane.shape[1:]
    limit = plane[:, 1:-1, 1:-1] + 0.25  # grey is rounded
    codes = np.zeros(limit.shape, np.uint8)
    for bit, (y, x) in enumerate(_AROUND):
        brighter = plane[:, y : height - 2 + y, x : width - 2 + x] > limit
        codes |= brighter.view(np.uint8) << bit
    return codes


def _uniform_patterns() -> np.ndarray:
    """Returns each code's number of bits; 9 if its circle has over 2 changes."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    changes = (bits != np.roll(bits, 1, axis=1)).sum(1)
    return np.where(changes <= 2, bits.sum(1), 9)


def _texture(channels, planes, laplacians):
    columns = []
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    for plane, residual in zip(planes, laplacians, strict=True):
        height, width = (size // 4 for size in plane.shape[1:])
        blocks = plane[:, : 4 * height, : 4 * width]
        blocks = blocks.reshape(len(plane), height, 4, width, 4)
        variance = np.maximum(blocks.var((2, 4)), 0).reshape(len(plane), -1)
        columns.append(np.log1p(_quantiles(variance, shares)))
        columns.append(np.log1p(_quantiles(np.abs(_sample(residual)), shares)))
    return columns


def _grid(channels, planes, laplacians):
    columns = []
    for plane in planes:
        border, inside = pictures.steps(plane)
        # A picture of one block has no edge, and the ratio 1.
        across = border[:, 0] if border.size else inside
        columns.append(np.log(across + 1) - np.log(inside + 1))
    return columns


_PATTERNS = _uniform_patterns()
GROUPS: dict[str, _Group] = {
    "spectrum": _spectrum,
    "residual": _residual,
    "differences": _differences,
    "dct": _dct,
    "colour": _colour,
    "correlation": _correlation,
    "patterns": _patterns,
    "texture": _texture,
    "grid": _grid,
}
