"""Packed portions: what goes in comes out, as views; damage of any kind is told and nothing is made of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from safetensors import safe_open

from qi_core import (
    Condition,
    EncodedPairs,
    Examples,
    Latents,
    Origin,
    Pair,
    Pairs,
    QiError,
    Sample,
    Samples,
    StoredError,
)
from qi_core.packing import PAGE, Damaged, Limits, body, pack, read, unpack
from qi_core.portions import Lost, Portion


def picture(*size: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8)


def samples(count: int = 3) -> Portion:
    items = tuple(
        Sample(
            key=f"\udcff{i}.png",  # a file name whose bytes are no text
            prompt="宽" * i,
            image=picture(8, 8 * (i + 1)),
            references=(picture(4, 4),) * (i % 2),
            origin=Origin(height=9, width=9, bytes=100, turned=True) if i else None,
        )
        for i in range(count)
    )
    lost = (Lost(key="bad", reason="too small", detail="1x1", rejected=True),)
    return Portion(batch=Samples(items=items, slots=tuple(range(7, 7 + count))), lost=lost)


def examples() -> Portion:
    latents = Latents(tokens=torch.randn(10, 4).bfloat16(), grids=((1, 2, 3), (1, 2, 2)))
    references = Latents(tokens=torch.randn(2, 4), grids=((1, 1, 2),))
    condition = Condition(text=torch.randn(5, 6), lengths=(5, 0), references=references, reference_counts=(0, 1))
    return Portion(batch=Examples(latents=latents, condition=condition, slots=(4, 1), keys=("a", "b")))


def pairs() -> Portion:
    latents = Latents(tokens=torch.randn(6, 4), grids=((1, 2, 3),))
    stored = (StoredError(seed=1, winner=1.0, loser=math.inf), StoredError(seed=2**60, winner=0.1, loser=2.0, t=0.3))
    made = Pair(key="b", prompt="q", winner=latents, loser=latents.with_tokens(-latents.tokens), stored=stored)
    return Portion(batch=Pairs(items=(Pair(key="a", prompt="p", winner=picture(2, 4), loser=picture(2, 4)), made)))


def encoded_pairs() -> Portion:
    """Of two sizes; one is an editing task, the other brought errors of its reference."""
    base = examples().batch
    assert isinstance(base, Examples)
    stored = (StoredError(seed=2**60, winner=0.1, loser=math.inf, t=0.3), StoredError(seed=1, winner=1.0, loser=2.0))
    winners, losers = base.latents, base.latents.with_tokens(-base.latents.tokens)
    made = EncodedPairs(
        keys=base.keys, slots=base.slots, winners=winners, losers=losers, condition=base.condition, stored=(stored, ())
    )
    return Portion(batch=made, lost=(Lost(key="bad", reason="latent is not finite", detail=""),))


def whole(portion: Portion) -> bytearray:
    return bytearray().join(body(pack(portion)))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "__attrs_attrs__"):
        names = [each.name for each in one.__attrs_attrs__]
        return type(one) is type(other) and all(same(getattr(one, n), getattr(other, n)) for n in names)
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize(
    "portion",
    [samples(), samples(0), examples(), pairs(), encoded_pairs()],
    ids=["samples", "none", "ex", "pairs", "encoded"],
)
def test_what_goes_in_comes_out(portion: Portion) -> None:
    packed = pack(portion)
    assert same(read(memoryview(whole(portion))), portion)
    assert same(unpack(packed.meta, packed.tensors), portion)


def test_tensors_are_views_of_the_readers_buffer_and_begin_on_a_page() -> None:
    buffer = whole(examples())
    batch = read(memoryview(buffer)).batch
    assert isinstance(batch, Examples)
    before = batch.latents.tokens.clone()
    start = 8 + int.from_bytes(buffer[:8], "little")
    assert start % PAGE == 0
    buffer[start:] = bytes(len(buffer) - start)
    assert before.any()
    assert not batch.latents.tokens.any()


def test_many_pictures_are_one_entry_and_the_safetensors_library_reads_it(tmp_path: Path) -> None:
    portion = samples(40)
    (tmp_path / "body").write_bytes(whole(portion))
    with safe_open(tmp_path / "body", "pt") as file:
        assert sorted(file.keys()) == ["items.image.U8", "items.references.U8"]
        assert json.loads(file.metadata()["qi"])["kind"] == "Samples"
        assert isinstance(portion.batch, Samples)
        first = portion.batch.items[0].image
        assert torch.equal(file.get_tensor("items.image.U8")[: first.numel()], first.reshape(-1))


def test_nothing_is_copied_to_be_sent() -> None:
    portion = examples()
    assert isinstance(portion.batch, Examples)
    (sent,) = pack(portion).pieces["latents.tokens.BF16"]
    assert sent.data_ptr() == portion.batch.latents.tokens.data_ptr()


def test_other_records_are_refused() -> None:
    @frozen
    class Mine:
        items: tuple[Sample, ...] = ()

    with pytest.raises(QiError, match="a batch of Mine can't be sent"):
        pack(Portion(batch=Mine()))  # type: ignore[arg-type]


def edited(portion: Portion | None = None, **changes: Any) -> memoryview:
    """A body whose header says something else."""
    buffer = whole(portion or examples())
    length = int.from_bytes(buffer[:8], "little")
    header = json.loads(buffer[8 : 8 + length])
    for name, value in changes.items():
        if name == "meta":
            told = json.loads(header["__metadata__"]["qi"])
            told["batch"].update(value)
            header["__metadata__"]["qi"] = json.dumps(told)
        else:
            header["latents.tokens.BF16"][name] = value
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % PAGE)
    return memoryview(bytearray(len(text).to_bytes(8, "little") + text + bytes(buffer[8 + length :])))


def losers(grids: list[list[int]]) -> memoryview:
    return edited(encoded_pairs(), meta={"losers": {"Latents": {"tokens": [1, 10, 4], "grids": grids}}})


@pytest.mark.parametrize(
    ("buffer", "told"),
    [
        (memoryview(bytearray(4)), "a header of 0 bytes in a body of 4"),
        (memoryview(bytearray(b"\xff" * 64)), "a header of 18446744073709551615 bytes"),
        (memoryview(whole(examples()))[:-1], "bytes at"),
        (memoryview(whole(examples()) + b"x"), "its header speaks of"),
        (edited(shape=[1 << 62, 4]), "a tensor of BF16"),
        (edited(shape=[-10, -4]), "a tensor of shape"),
        (edited(shape=[0, 1 << 62, 8], data_offsets=[0, 0]), "Stride calculation overflowed"),
        (edited(dtype="F128"), "KeyError"),
        (edited(data_offsets=[8, 88]), "begins at 8"),
        (edited(meta={"slots": [4, "1"]}), "'1' in the place of a int"),
        (edited(meta={"slots": [4]}), r"parts are of \[1, 2\] samples"),
        (edited(meta={"latents": {"Latents": {"tokens": [0, 10, 4], "grids": [[1, 2, 3]]}}}), "for grids"),
        (edited(meta={"latents": {"Latents": {"tokens": [0, 20, 4], "grids": []}}}), "its records have 80"),
        (edited(meta={"latents": {"Popen": {}}}), "a Popen in the place of a Latents"),
        (edited(meta={"run": 1}), "Examples has no field 'run'"),
        (edited(encoded_pairs(), meta={"stored": [[]]}), r"parts are of \[1, 2\] samples"),
        (edited(encoded_pairs(), meta={"stored": [[], [{"Pair": {}}]]}), "a Pair in the place of a StoredError"),
        (losers(grids=[[1, 2, 3]]), "for grids"),
        (losers(grids=[[1, 2, 2], [1, 2, 3]]), "beside losers of"),
    ],
)  # fmt: skip
def test_damage_is_told(buffer: memoryview, told: str) -> None:
    with pytest.raises(Damaged, match=told):
        read(buffer)


def test_limits_hold_before_anything_is_made() -> None:
    buffer = memoryview(whole(examples()))
    for limits in (Limits(body=100), Limits(header=100), Limits(entries=1)):
        with pytest.raises(Damaged, match="are taken"):
            read(buffer, limits)
