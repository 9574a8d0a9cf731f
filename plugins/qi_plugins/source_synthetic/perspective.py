"""A flat thing in space as a camera sees it. No torch here.

A point (x, y) of a sheet that is turned by R and stands at distance d before a pinhole camera of focal length d is seen
at d (r1 x + r2 y) / (d + r3 x + r4 y) (Hartley and Zisserman 2004, equation 8.1 for a plane): a homography
H = [[r11, r12, 0], [r21, r22, 0], [r31 / d, r32 / d, 1]].
"""

from __future__ import annotations

import math
from typing import TypeAlias

from attrs import frozen

Matrix: TypeAlias = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
Point: TypeAlias = tuple[float, float]


@frozen(kw_only=True)
class View:
    """Where the pixels of a sheet are seen."""

    matrix: Matrix
    """Pixels of the sheet, from its upper left corner, -> pixels of the picture."""
    corners: tuple[Point, Point, Point, Point]
    """Upper left, upper right, lower right, lower left."""
    facing: float
    """Cosine of the angle between the sheet's normal and the line of sight."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom): whole pixels that hold it and one more on each side."""
        across, down = [x for x, _ in self.corners], [y for _, y in self.corners]
        return (
            math.floor(min(across)) - 1,
            math.floor(min(down)) - 1,
            math.ceil(max(across)) + 1,
            math.ceil(max(down)) + 1,
        )

    def coefficients(self) -> tuple[float, ...]:
        """For Pillow's transform of ``box``: (a, ..., h), x = (a u + b v + c) / (g u + h v + 1) of the sheet for
        each (u, v) of the box."""
        left, top, _, _ = self.box
        inverse = product(inverted(self.matrix), ((1.0, 0.0, left), (0.0, 1.0, top), (0.0, 0.0, 1.0)))
        scale = inverse[2][2]
        values = [value / scale for row in inverse for value in row]
        return tuple(values[:8])


def seen(
    width: float,
    height: float,
    *,
    yaw: float,
    pitch: float,
    roll: float,
    room: tuple[float, float, float, float],
    share: float,
) -> View:
    """A sheet of that size, turned by so many radians, in a room (left, top, width, height) of the picture of which it
    fills at most ``share`` of the width and of the height."""
    rotation = _rotation(yaw, pitch, roll)
    distance = 2.2 * max(width, height)
    matrix: Matrix = (
        (rotation[0][0], rotation[0][1], 0.0),
        (rotation[1][0], rotation[1][1], 0.0),
        (rotation[2][0] / distance, rotation[2][1] / distance, 1.0),
    )
    middle: Matrix = ((1.0, 0.0, -width / 2), (0.0, 1.0, -height / 2), (0.0, 0.0, 1.0))
    flat = product(matrix, middle)
    corners = [applied(flat, point) for point in ((0, 0), (width, 0), (width, height), (0, height))]
    across, down = [x for x, _ in corners], [y for _, y in corners]
    left, top, wide, tall = room
    scale = share * min(wide / (max(across) - min(across)), tall / (max(down) - min(down)))
    x = left + wide / 2 - scale * (max(across) + min(across)) / 2
    y = top + tall / 2 - scale * (max(down) + min(down)) / 2
    placed = product(((scale, 0.0, x), (0.0, scale, y), (0.0, 0.0, 1.0)), flat)
    return View(
        matrix=placed,
        corners=tuple((scale * a + x, scale * b + y) for a, b in corners),  # type: ignore[arg-type]
        facing=abs(rotation[2][2]),
    )


def applied(matrix: Matrix, point: Point) -> Point:
    """The point that a homography leads to."""
    x, y, w = (row[0] * point[0] + row[1] * point[1] + row[2] for row in matrix)
    return x / w, y / w


def product(one: Matrix, other: Matrix) -> Matrix:
    """First the other, then the one."""
    return tuple(  # type: ignore[return-value]
        tuple(sum(row[k] * other[k][column] for k in range(3)) for column in range(3)) for row in one
    )


def inverted(matrix: Matrix) -> Matrix:
    """The adjugate by the determinant."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    cofactors = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    determinant = a * cofactors[0][0] + b * cofactors[1][0] + c * cofactors[2][0]
    return tuple(tuple(value / determinant for value in row) for row in cofactors)  # type: ignore[return-value]


def _rotation(yaw: float, pitch: float, roll: float) -> Matrix:
    """About the vertical axis, then the horizontal one, then within the picture."""
    cy, sy, cp, sp, cr, sr = (f(angle) for angle in (yaw, pitch, roll) for f in (math.cos, math.sin))
    about: Matrix = ((cy, 0.0, sy), (0.0, 1.0, 0.0), (-sy, 0.0, cy))
    tipped: Matrix = ((1.0, 0.0, 0.0), (0.0, cp, -sp), (0.0, sp, cp))
    rolled: Matrix = ((cr, -sr, 0.0), (sr, cr, 0.0), (0.0, 0.0, 1.0))
    return product(rolled, product(tipped, about))
