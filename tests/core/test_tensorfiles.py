"""Tensors on the disk in several boxes: put together, read in parts, and damage told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from qi_core import QiError, tensorfiles
from qi_core.tensorfiles import Spot, StoredTensors, forms, safetensors, write

WHOLE = torch.arange(35.0).reshape(7, 5)


def file(path: Path, boxes: Mapping[str, tuple[Tensor, tuple[int, ...], tuple[int, ...]]]) -> Path:
    """Name -> values, where they begin, the whole shape."""
    tensors = {name: values for name, (values, _, _) in boxes.items()}
    spots = {name: Spot(offsets, shape) for name, (_, offsets, shape) in boxes.items()}
    write(path, safetensors(tensors, forms(tensors), spots))
    return path


def box(rows: slice, columns: slice) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
    return WHOLE[rows, columns], (rows.start, columns.start), (7, 5)


@pytest.fixture
def boxes(tmp_path: Path) -> list[Path]:
    """A matrix, cut after value 17 as a flat range cuts; a number; a tensor without values."""
    number, nothing = (torch.tensor(3), (), ()), (torch.empty(0, 2), (0, 0), (0, 2))
    return [
        file(tmp_path / "a", {"w": box(slice(0, 3), slice(0, 5)), "number": number}),
        file(tmp_path / "b", {"w": box(slice(3, 4), slice(0, 2)), "nothing": nothing}),
        file(tmp_path / "c", {"w": box(slice(3, 4), slice(2, 5))}),
        file(tmp_path / "d", {"w": box(slice(4, 7), slice(0, 5))}),
    ]


def test_boxes_are_put_together(boxes: list[Path]) -> None:
    stored = StoredTensors(boxes)
    assert set(stored) == {"w", "number", "nothing"}
    assert torch.equal(stored["w"], WHOLE)
    assert stored["number"] == 3
    assert stored.forms["w"].shape == (7, 5)
    assert stored["nothing"].shape == (0, 2)


def test_of_a_region_only_files_that_hold_some_are_read(boxes: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    stored, opened = StoredTensors(boxes), list[str]()
    real = tensorfiles._read
    monkeypatch.setattr(tensorfiles, "_read", lambda box, *more: opened.append(box.path.name) or real(box, *more))
    for rows, columns, files in (
        (slice(1, 4), slice(1, 2), "ab"),
        (slice(3, 7), slice(3, 5), "cd"),
        (slice(0, 7), slice(0, 5), "abcd"),
        (slice(5, 5), slice(0, 5), ""),
    ):
        opened.clear()
        assert torch.equal(stored.region("w", (rows, columns)), WHOLE[rows, columns])
        assert "".join(opened) == files


@pytest.mark.parametrize(
    "damage", ["a hole", "held twice", "twice and a hole", "beyond its end", "an end that is gone"]
)
def test_boxes_that_do_not_make_a_tensor_are_told(tmp_path: Path, damage: str) -> None:
    """The third has as many values as the whole, and all the same does not fill it."""
    top, rest = box(slice(0, 3), slice(0, 5)), box(slice(3, 7), slice(0, 5))
    pairs = {
        "a hole": [top, box(slice(4, 7), slice(0, 5))],
        "held twice": [top, box(slice(2, 7), slice(0, 5))],
        "twice and a hole": [top, top, box(slice(6, 7), slice(0, 5))],
        "beyond its end": [top, (rest[0], (4, 0), (7, 5))],
        "an end that is gone": [top, box(slice(3, 6), slice(0, 5))],
    }[damage]
    paths = [file(tmp_path / f"{number}", {"w": each}) for number, each in enumerate(pairs)]
    with pytest.raises(QiError, match=r"w: what 0, 1.* hold does not make up a tensor of \(7, 5\)"):
        StoredTensors(paths)


def test_a_name_in_two_files_needs_a_place_in_both(tmp_path: Path) -> None:
    boxed = file(tmp_path / "a", {"w": box(slice(0, 3), slice(0, 5))})
    save_file({"w": WHOLE}, tmp_path / "b")
    with pytest.raises(QiError, match="b: 'w' is in a too; get the files again"):
        StoredTensors([boxed, tmp_path / "b"])


@pytest.mark.parametrize(
    "told", ["{", "[1]", '{"w": {}}', '{"w": {"saved_offsets": [-1, 0]}}', '{"w": {"saved_offsets": [0]}}']
)
def test_a_place_that_cannot_be_read_is_told(tmp_path: Path, told: str) -> None:
    save_file({"w": WHOLE}, tmp_path / "a", metadata={"DCP_SHARDING_INFO": told})
    with pytest.raises(QiError, match="a: "):
        StoredTensors([tmp_path / "a"])


def test_what_others_write_without_the_whole_shape_ends_where_its_last_box_ends(tmp_path: Path) -> None:
    for name, rows, at in (("a", WHOLE[:3], 0), ("b", WHOLE[3:], 3)):
        metadata = {"DCP_SHARDING_INFO": json.dumps({"w": {"saved_offsets": [at, 0]}})}
        save_file({"w": rows.contiguous()}, tmp_path / name, metadata=metadata)
    assert torch.equal(StoredTensors([tmp_path / "b", tmp_path / "a"])["w"], WHOLE)


def test_values_that_begin_anywhere_in_a_file_are_read(tmp_path: Path) -> None:
    """Others write files whose values are not aligned."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [7, 5], "data_offsets": [0, 140]}}).encode()
    header += b" " * (1 - len(header) % 4)
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + WHOLE.numpy().tobytes())
    assert (len(header) + 8) % 4
    assert torch.equal(StoredTensors([tmp_path / "a"])["w"], WHOLE)


def test_what_is_read_is_its_own(tmp_path: Path) -> None:
    """Whoever changes it changes no file, and who removes the file takes nothing away."""
    path = file(tmp_path / "a", {"w": box(slice(0, 7), slice(0, 5))})
    stored = StoredTensors([path])
    first = stored["w"].zero_()
    assert torch.equal(stored["w"], WHOLE)
    path.write_bytes(b"")
    assert not first.any()
    with pytest.raises(QiError, match="a: cannot be read any more"):
        stored["w"]
