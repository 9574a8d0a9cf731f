"""BRISQUE's features: how the luminance of neighbouring pixels varies (Mittal, Moorthy and Bovik, "No-Reference Image
Quality Assessment in the Spatial Domain", IEEE Transactions on Image Processing 21(12), 2012). No torch here.

Shapes: H, W pixels; K the window's width.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats: TypeAlias = NDArray[np.float64]

SMALLEST = 32
"""Pixels a side, below which statistics say nothing."""
WIDTH, SIGMA = 7, 7 / 6
"""Pixels, of the Gaussian window."""


def features(picture: Image.Image) -> Floats:
    """(36,): 18 of the picture's luminance, 0 to 255, and 18 of that at half the size. Not finite where it is flat."""
    luminance = picture.convert("F")  # Rec. 601, as the paper's own code takes it
    half = luminance.resize((max(1, picture.width // 2), max(1, picture.height // 2)), Image.Resampling.BICUBIC)
    return np.concatenate([of_scale(np.asarray(each, dtype=np.float64)) for each in (luminance, half)])


def of_scale(luminance: Floats) -> Floats:
    """(18,): shape and variance of the normalised luminance; then shape, mean and the variances of both sides for the
    products of neighbours: right, below, below right, below left (equations 1 to 12; table I)."""
    mscn = normalised(luminance)
    alpha, left, right = fitted(mscn)
    found = [alpha, (left + right) / 2]
    for product in (
        mscn[:, :-1] * mscn[:, 1:],
        mscn[:-1] * mscn[1:],
        mscn[:-1, :-1] * mscn[1:, 1:],
        mscn[:-1, 1:] * mscn[1:, :-1],
    ):
        alpha, left, right = fitted(product)
        found += [alpha, mean(alpha, left, right), left, right]
    return np.array(found)


def normalised(luminance: Floats) -> Floats:
    """(I - mu) / (sigma + 1), with mu and sigma over a Gaussian window (equations 1 to 3). Outside it is dark."""
    mu = blurred(luminance)
    sigma = np.sqrt(np.abs(blurred(luminance**2) - mu**2))
    return (luminance - mu) / (sigma + 1.0)


def blurred(values: Floats) -> Floats:
    """A Gaussian window is the product of two lines: one sum down, one across."""
    line = np.exp(-((np.arange(WIDTH) - WIDTH // 2) ** 2) / (2 * SIGMA**2))
    line /= line.sum()
    for axis in (0, 1):
        padded = np.pad(values, [(WIDTH // 2,) * 2 if axis == at else (0, 0) for at in (0, 1)])
        values = np.lib.stride_tricks.sliding_window_view(padded, WIDTH, axis=axis) @ line
    return values


def fitted(values: Floats) -> tuple[float, float, float]:
    """Shape alpha and the variances of the left and of the right side of an asymmetric generalised Gaussian (equation
    7), by moments (Lasmar, Stitou and Berthoumieu 2009): rho(alpha) = r (g^3 + 1)(g + 1) / (g^2 + 1)^2 with
    g = sigma_left / sigma_right and r = (mean |x|)^2 / mean x^2."""
    below, above = values[values < 0], values[values >= 0]
    if not below.size or not above.any():
        return np.nan, np.nan, np.nan
    left, right = float((below**2).mean()), float((above**2).mean())
    g = np.sqrt(left / right)
    r = np.abs(values).mean() ** 2 / (values**2).mean()
    wanted = r * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    alphas, rhos = _shapes()
    return float(alphas[np.abs(rhos - wanted).argmin()]), left, right


def mean(alpha: float, left: float, right: float) -> float:
    """(beta_right - beta_left) Gamma(2/alpha) / Gamma(1/alpha), beta = sigma sqrt(Gamma(1/alpha) / Gamma(3/alpha))
    (equations 9 to 11)."""
    if not np.isfinite(alpha):
        return np.nan
    from math import exp, lgamma

    one, two, three = (lgamma(k / alpha) for k in (1, 2, 3))
    return float((np.sqrt(right) - np.sqrt(left)) * exp(0.5 * (one - three) + two - one))


@lru_cache(maxsize=1)
def _shapes() -> tuple[Floats, Floats]:
    """Every shape that is looked for, 0.2 to 10, and rho = Gamma(2/alpha)^2 / (Gamma(1/alpha) Gamma(3/alpha))."""
    from math import exp, lgamma

    alphas = np.arange(200, 10001) / 1000
    rhos = np.array([exp(2 * lgamma(2 / a) - lgamma(1 / a) - lgamma(3 / a)) for a in alphas])
    return alphas, rhos
