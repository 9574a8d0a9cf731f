"""How a run starts: small sets are looked through, large ones are listed, and what changes afterwards is noticed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from qi_core import Place, QiError, blob
from qi_core.source import Planned
from qi_plugins.source_images import images
from qi_plugins.source_images.images import Images


def numbered(folder: Path, count: int, side: int = 32) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (side, side), (number, 0, 0)).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(f"number {number}")


def built(run: Path, data: Path, **settings: Any) -> Any:
    run.mkdir(exist_ok=True)
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=run)
    return Images(path=str(data), side=32, **settings).build(place, 16)


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened."""
    opened: list[str] = []
    real = blob._no_waiting

    def counted(path: str, flags: int) -> int:
        opened.append(path)
        return real(path, flags)

    monkeypatch.setattr(blob, "_no_waiting", counted)
    return opened


def test_a_large_set_starts_without_being_opened(
    tmp_path: Path, opens: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered(tmp_path / "data", 50)
    built(tmp_path / "run", tmp_path / "data")
    assert len(opens) == 100, "a small one is looked through"
    opens.clear()
    built(tmp_path / "run", tmp_path / "data")
    assert len(opens) == 50, "built again, as at a change of the data, captions alone"
    monkeypatch.setattr(images, "AT_START", 20)
    blob.header.cache_clear()
    opens.clear()
    source = built(tmp_path / "run", tmp_path / "data")
    assert len(opens) == 2, "one sample, to see that there is a usable one"
    source.plan(1000)
    assert len(opens) == 2, "planning opens nothing"
    assert len({sample.prompt for sample in source.draw(50)}) == 50
    opens.clear()
    blob.header.cache_clear()
    built(tmp_path / "run", tmp_path / "data", checked="start")
    assert len(opens) == 100


def test_what_cannot_be_used_of_a_large_set_is_told_when_it_is_drawn_and_another_comes_in_its_seat(
    tmp_path: Path,
) -> None:
    numbered(tmp_path / "data", 20)
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "003.png")
    (tmp_path / "data" / "004.txt").write_text(" ")
    (tmp_path / "data" / "005.png").write_text("no picture")
    os.remove(tmp_path / "data" / "006.png")
    os.symlink("nowhere", tmp_path / "data" / "006.png")
    source = built(tmp_path / "run", tmp_path / "data", checked="drawn")
    assert source.report() == {"cannot be read": 1}, "what is no file is known from the list"
    drawn = [sample.key for sample in source.draw(19)]
    assert len(drawn) == 19
    assert set(drawn) == {f"{n:03}.png" for n in range(20)} - {"003.png", "004.png", "005.png", "006.png"}
    assert source.report() == {"cannot be read": 1, "too small": 1, "caption missing": 1, "not a picture": 1}


def test_nothing_usable_in_a_large_set_is_told_at_the_start_after_a_look_at_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered(tmp_path / "data", 40, side=8)
    monkeypatch.setattr(images, "PROBES", 10)
    with pytest.raises(QiError, match="40 samples found, none usable of 10 that were looked at: 10 x too small"):
        built(tmp_path / "run", tmp_path / "data", checked="drawn")


@pytest.mark.parametrize("checked", ["start", "drawn"])
def test_a_file_that_changes_while_the_run_goes_on_is_not_used(tmp_path: Path, checked: str) -> None:
    """Else the same ticket would give another sample here, in another process, or after a resume."""
    numbered(tmp_path / "data", 4)
    source = built(tmp_path / "run", tmp_path / "data", checked=checked)
    source.draw(4)
    Image.new("RGB", (32, 32), (200, 0, 0)).save(tmp_path / "data" / "001.png")
    (tmp_path / "data" / "002.txt").write_text("something quite different")
    assert {sample.key for sample in source.draw(4)} == {"000.png", "003.png"}
    assert source.report() == {"changed since it was found": 2}


@pytest.mark.parametrize("checked", ["start", "drawn"])
def test_a_resume_is_refused_where_files_are_others_and_not_where_they_were_copied(
    tmp_path: Path, checked: str
) -> None:
    numbered(tmp_path / "data", 4)
    state = built(tmp_path / "run", tmp_path / "data", checked=checked).state_dict()
    for path in (tmp_path / "data").iterdir():
        os.utime(path, (1, 1))
    built(tmp_path / "run", tmp_path / "data", checked=checked).load_state_dict(state)
    (tmp_path / "data" / "002.txt").write_text("something quite different")
    with pytest.raises(QiError, match="captions or pictures are others"):
        built(tmp_path / "run", tmp_path / "data", checked=checked).load_state_dict(state)


def test_an_order_of_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set so large that its order is not held in memory, and a checkpoint from before that was so."""
    from qi_core import shuffling

    numbered(tmp_path / "data", 9)
    source = built(tmp_path / "run", tmp_path / "data")
    source.draw(4)
    state = source.state_dict()
    monkeypatch.setattr(shuffling, "LARGE", 4)
    with pytest.raises(QiError, match=r"another order \(sorted-1, here feistel-1\)"):
        built(tmp_path / "run", tmp_path / "data").load_state_dict(state)
    after = built(tmp_path / "run", tmp_path / "data", changed="next-epoch")
    after.load_state_dict(state)
    assert isinstance(after, Planned)
    assert {epoch for epoch, _ in after.plan(9)} == {1}
    unbroken, resumed = (built(tmp_path / "run", tmp_path / "data") for _ in range(2))
    unbroken.plan(13)
    resumed.load_state_dict(unbroken.state_dict())
    assert resumed.plan(20) == unbroken.plan(20), "in the order that is a function too"
