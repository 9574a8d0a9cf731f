"""Contact sheets and PNG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qi_core import Picture, QiError, typeface
from qi_core.pictures import INK, PAPER, TEXT_SIZE, caption_lines, picture_grid, save_png, to_image


def colour_of(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    """Pixels of exactly this colour."""
    return int((np.asarray(sheet.convert("RGB")) == colour).all(axis=2).sum())


def test_values_become_bytes_and_are_clamped() -> None:
    picture = torch.tensor([-1.0, 0.0, 1.0, 5.0])[None, None].expand(3, 1, 4)
    assert np.asarray(to_image(picture))[0, :, 0].tolist() == [0, 128, 255, 255]


def test_four_channels_are_transparent_pictures() -> None:
    assert to_image(torch.zeros(4, 2, 2)).mode == "RGBA"
    with pytest.raises(QiError, match="wanted"):
        to_image(torch.zeros(1, 2, 2))


def test_tiny_pictures_are_enlarged_by_a_whole_factor() -> None:
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 16, 64)
    sheet = picture_grid([Picture(image=red, caption="")] * 3)
    assert colour_of(sheet, (255, 0, 0)) == 3 * (16 * 3) * (64 * 3)


def test_huge_pictures_are_shrunk() -> None:
    sheet = picture_grid([Picture(image=torch.ones(3, 1024, 2048), caption="x")])
    assert max(sheet.size) < 600


def test_pictures_of_several_sizes_keep_their_proportions() -> None:
    red, blue = (torch.full((3, 16, 16), -1.0) for _ in range(2))
    red[0], blue[2] = 1.0, 1.0
    sheet = picture_grid([Picture(image=red, caption="a"), Picture(image=blue.repeat(1, 2, 2), caption="b")])
    assert colour_of(sheet, (0, 0, 255)) == 4 * colour_of(sheet, (255, 0, 0)) > 0


def test_captions_are_drawn_in_chinese_too() -> None:
    blank = picture_grid([Picture(image=torch.ones(3, 16, 64), caption="")])
    with_text = picture_grid([Picture(image=torch.ones(3, 16, 64), caption="文字“你好”")])
    assert blank.size == with_text.size or with_text.height > blank.height
    assert colour_of(blank, INK) == 0
    assert colour_of(with_text, INK) > 20
    assert colour_of(with_text, PAPER) > 100


def test_captions_are_wrapped_at_spaces_and_cut_with_an_ellipsis() -> None:
    assert caption_lines("short", 200) == ["short"]
    lines = caption_lines('the word "HELLO" in red on white ✓', 150)
    assert " ".join(lines) == 'the word "HELLO" in red on white ✓'
    assert len(lines) > 1
    long = caption_lines("很长的说明" * 40, 100)
    assert len(long) == 3
    assert long[-1].endswith("…")
    measure = typeface.load(typeface.SHIPPED, TEXT_SIZE).getlength
    assert max(measure(line) for line in lines) <= 150
    assert max(measure(line) for line in long) <= 100


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(QiError, match="no pictures"):
        picture_grid([])


def test_a_saved_png_comes_back_and_leaves_nothing_beside(tmp_path: Path) -> None:
    image = to_image(torch.rand(3, 8, 8) * 2 - 1)
    save_png(image, tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(image))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(QiError, match="could not be written"):
        save_png(Image.new("RGB", (2, 2)), tmp_path / "none" / "a.png")
