"""Where tokens stand (Qwen-Image report, section 3: MSRoPE)."""

from __future__ import annotations

import torch

from qi_plugins.mmdit.rope import Picture, Rope, place_pictures, rotate

AXES = (4, 6, 6)
CPU = torch.device("cpu")


def positions(turns: torch.Tensor) -> list[tuple[int, int, int]]:
    """(frame, row, column): the first pair of each axis turns by one radian a position."""
    return [(round(a), round(b), round(c)) for a, b, c in turns[:, [0, 2, 5]].angle().tolist()]


def test_pictures_are_centred_and_odd_ones_lean_to_the_negative() -> None:
    turns = Rope(AXES).picture(Picture(grid=(1, 3, 2), frame=1), CPU)
    assert positions(turns) == [(1, row, column) for row in (-2, -1, 0) for column in (-1, 0)]


def test_references_take_the_next_frames_and_text_begins_past_the_largest_picture() -> None:
    pictures, start = place_pictures((1, 2, 4), [(1, 6, 3), (1, 2, 2)], layered=False)
    assert [picture.frame for picture in pictures] == [0, 1, 2]
    assert start == 3


def test_layers_are_frames_and_the_condition_is_at_minus_one() -> None:
    pictures, start = place_pictures((5, 2, 2), [(1, 4, 4)], layered=True)
    assert [picture.frame for picture in pictures] == [0, 1, 2, 3, 4, -1]
    assert start == 5


def test_text_depends_on_its_own_sample_alone() -> None:
    rope = Rope(AXES)
    alone = rope.text([2], [3], CPU)
    among = rope.text([1, 2, 3], [7, 3, 2000], CPU)
    assert torch.equal(among[7:10], alone)
    assert positions(rope.text([0], [2], CPU)) == [(0, 0, 0), (1, 1, 1)]


def test_the_real_rotation_is_the_complex_one() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, 16, generator=generator)
    turns = Rope(AXES).text([3], [5], CPU)[:, None]
    pairs = torch.view_as_complex(x.view(5, 2, 8, 2)) * turns
    assert torch.equal(rotate(x, turns), torch.view_as_real(pairs).flatten(-2))
    compiled = torch.compile(rotate, backend="eager")
    torch.testing.assert_close(compiled(x, turns), rotate(x, turns))
    assert rotate(x.bfloat16(), turns).dtype == torch.bfloat16
