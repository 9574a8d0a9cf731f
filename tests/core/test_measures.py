"""Measurements of pictures: equal to plain formulas, and ordered as the eye has it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from qi_core.measures import Bytes, blur, clarity, entropy, mosaic, texture


def natural(side: int = 256, seed: int = 0) -> Bytes:
    """Luma with the spectrum of photographs: amplitudes that fall as 1 / frequency."""
    dice = np.random.default_rng(seed)
    squares = np.fft.fftfreq(side)[:, None] ** 2 + np.fft.fftfreq(side)[None] ** 2
    squares[0, 0] = 1.0
    field = np.fft.ifft2(np.fft.fft2(dice.normal(size=(side, side))) / np.sqrt(squares)).real
    return (128 + 45 * (field - field.mean()) / field.std()).clip(0, 255).astype(np.uint8)


def blurred(luma: Bytes, radius: float) -> Bytes:
    return np.asarray(Image.fromarray(luma).filter(ImageFilter.GaussianBlur(radius)))


def squared(luma: Bytes, cell: int) -> Bytes:
    """A mosaic of it."""
    height, width = luma.shape
    small = Image.fromarray(luma).resize((width // cell, height // cell), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST))


def test_clarity_and_entropy_are_their_formulas() -> None:
    luma = natural(300)[:290]  # more rows than are held at once
    y = luma.astype(float)
    laplacian = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * y[1:-1, 1:-1]
    assert clarity(luma) == pytest.approx(laplacian.var())
    assert entropy([0] * 100 + [7] * 64 + [0] * 92) == pytest.approx(math.log2(64))


def test_texture_is_the_share_of_edges() -> None:
    assert texture(np.zeros((64, 64), dtype=np.uint8)) == 0.0
    half = np.zeros((402, 402), dtype=np.uint8)
    half[:, 201::4] = half[:, 202::4] = 255  # stripes of two pixels on the right half: every pixel has a step
    assert texture(half) == pytest.approx(0.5, abs=0.01)


def test_blur_grows_with_blur_and_not_with_contrast() -> None:
    luma = natural()
    found = [blur(luma), *(blur(blurred(luma, radius)) for radius in (1, 2, 4))]
    assert found == sorted(found)
    assert found == pytest.approx([0.17, 0.35, 0.59, 0.80], abs=0.02)
    assert blur((luma // 4 + 96).astype(np.uint8)) == pytest.approx(found[0], abs=0.05)
    assert blur(np.full((64, 64), 9, dtype=np.uint8)) == 1.0
    assert blur(luma[:9]) == 1.0


def test_mosaics_are_found_scaled_or_not_and_photographs_have_none() -> None:
    luma = natural(512)
    for cell in (8, 12, 20):
        assert mosaic(squared(luma, cell)) > 0.9
        scaled = Image.fromarray(squared(luma, cell)).resize((425, 425), Image.Resampling.LANCZOS)
        assert mosaic(np.asarray(scaled)) > 0.9
    hidden = luma.copy()
    hidden[:256, :256] = squared(luma[:256, :256], 10)
    assert mosaic(hidden) == pytest.approx(0.25, abs=0.05)
    plain = np.full((256, 256), 128, dtype=np.uint8)
    for innocent in (luma, blurred(luma, 2), plain, luma[:40], np.sort(luma, axis=1)):
        assert mosaic(innocent) == 0.0
    jpegs = [np.asarray(_jpeg(blurred(luma, radius), quality)) for radius in (0, 3) for quality in (50, 90)]
    assert [mosaic(luma) for luma in jpegs] == [0.0] * 4


def _jpeg(luma: Bytes, quality: int) -> Image.Image:
    import io

    file = io.BytesIO()
    Image.fromarray(luma).save(file, "JPEG", quality=quality)
    return Image.open(file)
