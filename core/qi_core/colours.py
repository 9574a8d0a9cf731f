"""Colours by name, as captions speak of them, and how well one is seen on another. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

RGB: TypeAlias = tuple[int, int, int]
"""Bytes."""

NAMED: dict[str, RGB] = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "red": (220, 20, 30),
    "orange": (255, 140, 0),
    "yellow": (255, 230, 0),
    "green": (0, 140, 50),
    "cyan": (0, 200, 220),
    "blue": (20, 60, 220),
    "purple": (120, 20, 160),
    "pink": (255, 150, 190),
    "brown": (120, 65, 20),
}
CHINESE: dict[str, str] = {
    "black": "黑",
    "white": "白",
    "grey": "灰",
    "red": "红",
    "orange": "橙",
    "yellow": "黄",
    "green": "绿",
    "cyan": "青",
    "blue": "蓝",
    "purple": "紫",
    "pink": "粉",
    "brown": "棕",
}


def contrast(one: RGB, other: RGB) -> float:
    """1 (none) to 21 (black on white): the contrast ratio of WCAG 2.2, which asks 3 of large text and 4.5 of small."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def nearest(colour: Sequence[float]) -> str:
    """The name nearest to an RGB colour in bytes (values between and beyond them are welcome)."""
    return min(NAMED, key=lambda name: sum((a - b) ** 2 for a, b in zip(NAMED[name], colour, strict=True)))


def _luminance(colour: RGB) -> float:
    red, green, blue = (_linear(value / 255) for value in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
