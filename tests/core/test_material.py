"""Files that samples are made of: what shows that one was edited."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qi_core import QiError, typeface
from qi_core.material import digest, listed, refuse_others, told, unchanged
from qi_core.pixels import Unusable


class Of:
    """A source that is made of these."""

    def __init__(self, **files: str) -> None:
        self.files = files

    def made_of(self) -> dict[str, str]:
        return self.files


def test_a_producer_refuses_orders_of_who_has_other_files_and_says_which() -> None:
    own = Of(text="1", font="2")
    refuse_others(told(Of(font="2", text="1")), own)
    refuse_others((), own)
    for others in (Of(text="1", font="3"), Of(text="1"), Of(text="1", font="2", x="")):
        with pytest.raises(QiError, match=r"version skew: (font|x): the producer's files are not the trainer's"):
            refuse_others(told(others), own)
    with pytest.raises(QiError, match="version skew"):
        refuse_others(told(own), object())


def test_a_resume_compares_what_both_name() -> None:
    """What the settings name anew was meant; a checkpoint from before it was told says nothing."""
    kept = {"text": "1", "font 'a'": "2"}
    assert unchanged(kept, {"text": "1", "font 'b'": "3"}, "refuse") == []
    assert unchanged(None, kept, "refuse") == []
    assert unchanged(kept, {**kept, "text": "9"}, "next-epoch") == ["text"]
    with pytest.raises(QiError, match=r"^source: text changed since the checkpoint; put back .* 'next-epoch'"):
        unchanged(kept, {**kept, "text": "9"}, "refuse")


def test_parts_do_not_run_into_each_other() -> None:
    assert digest(["ab", "c"]) != digest(["a", "bc"])


CHANGES: dict[str, Callable[[Path], object]] = {
    "a picture of another size": lambda folder: (folder / "a.png").write_bytes(b"12345"),
    "a caption of another size": lambda folder: (folder / "a.txt").write_text("longer"),
    "a new one": lambda folder: (folder / "within" / "c.JPG").write_bytes(b""),
    "one less": lambda folder: (folder / "within" / "b.png").unlink(),
    "another name": lambda folder: (folder / "a.png").rename(folder / "d.png"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_is_told_by_names_and_sizes(change: str, tmp_path: Path) -> None:
    (tmp_path / "one" / "within" / ".hidden").mkdir(parents=True)
    left_alone = (".c.png", "within/.hidden/f.png", "e.md")
    for name, content in (("a.png", b"1234"), ("a.txt", b"a"), ("within/b.png", b"1"), *((n, b"") for n in left_alone)):
        (tmp_path / "one" / name).write_bytes(content)
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # elsewhere, and newer
    one, two = (listed(tmp_path / name, (".png", ".jpg"), (".txt",)) for name in ("one", "two"))
    assert one.files == ("a.png", "within/b.png")
    assert one.digest == two.digest
    CHANGES[change](tmp_path / "two")
    assert listed(tmp_path / "two", (".png", ".jpg"), (".txt",)).digest != one.digest


def test_a_file_is_not_used_that_is_not_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1234")
    found = listed(tmp_path, (".png",))
    with (tmp_path / "a.png").open("rb") as file:
        found.refuse_changed("a.png", file.fileno())
        (tmp_path / "a.png").write_bytes(b"12345")
        with pytest.raises(Unusable, match="changed since it was found"):
            found.refuse_changed("a.png", file.fileno())


def test_a_font_is_told_by_its_content_and_must_stay_what_it_is(tmp_path: Path) -> None:
    shipped = typeface.locate(typeface.SHIPPED).read_bytes()
    for name in ("a.ttf", "b.ttf"):
        (tmp_path / name).write_bytes(shipped)
    (tmp_path / "c.ttf").write_bytes(shipped + b"\0")
    one, two, three = (typeface.told([str(tmp_path / name)]) for name in ("a.ttf", "b.ttf", "c.ttf"))
    assert list(one.values()) == list(two.values()) != list(three.values())
    assert typeface.told([typeface.SHIPPED]) == {}
    typeface.load(str(tmp_path / "a.ttf"), 20)
    (tmp_path / "a.ttf").write_bytes(shipped + b"\0")
    with pytest.raises(QiError, match="changed while it is in use"):
        typeface.load(str(tmp_path / "a.ttf"), 21)
