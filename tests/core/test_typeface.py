"""Fonts: the shipped one is whole, coverage is told exactly, and what cannot be read is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from qi_core import QiError, typeface


def level_one() -> str:
    """The 3755 Chinese characters of GB 2312 level 1."""
    rows = [bytes([high, low]) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF)]
    return "".join(row.decode("gb2312") for row in rows if row <= b"\xd7\xf9")


def test_the_shipped_font_has_what_it_promises() -> None:
    assert len(level_one()) == 3755
    assert typeface.covers(typeface.SHIPPED, level_one())
    assert typeface.covers(typeface.SHIPPED, "Hello, World! 0123456789 é ü ，。！？、；：“”《》（）… ✓×")


def test_the_shipped_font_is_small_and_keeps_its_licence() -> None:
    from fontTools.ttLib import TTFont

    path = typeface.locate(typeface.SHIPPED)
    assert path.stat().st_size < 2_500_000
    assert "SIL OPEN FONT LICENSE Version 1.1" in (path.parent / "OFL.txt").read_text(encoding="utf-8")
    with TTFont(path) as font:
        names = {record.nameID: str(record) for record in font["name"].names}
    assert "Adobe" in names[0]
    assert "SIL Open Font License" in names[13]


def test_missing_characters_are_named_once_each_in_order() -> None:
    assert typeface.missing(typeface.SHIPPED, "a\u0e01b\u0e02\u0e01") == "\u0e01\u0e02"
    assert not typeface.covers(typeface.SHIPPED, "\u0e01")


def test_found_fonts_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    font = tmp_path / "deep" / "Some-Font.TTF"
    font.parent.mkdir()
    font.write_bytes(typeface.locate(typeface.SHIPPED).read_bytes())
    (tmp_path / "readme.txt").write_text("no font")
    monkeypatch.setattr(typeface, "_folders", lambda: (tmp_path, tmp_path / "not there"))
    typeface.found.cache_clear()
    typeface.locate.cache_clear()
    try:
        assert typeface.found() == {"some-font": font}
        assert typeface.locate("Some-Font") == font
    finally:
        typeface.found.cache_clear()
        typeface.locate.cache_clear()


def test_an_unknown_font_is_told_with_what_to_do() -> None:
    with pytest.raises(QiError, match=r"font 'no such font': no such file.*noto-sans-sc"):
        typeface.load("no such font", 12)


def test_a_file_that_is_no_font_is_told(tmp_path: Path) -> None:
    path = tmp_path / "broken.ttf"
    path.write_bytes(b"not a font at all")
    with pytest.raises(QiError, match=r"broken\.ttf: cannot be read"):
        typeface.load(str(path), 12)
    with pytest.raises(QiError, match=r"broken\.ttf: cannot be read"):
        typeface.characters(str(path))
