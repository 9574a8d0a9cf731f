"""Portions as bytes and back, without a copy where they are read.

A packed portion is a safetensors file: eight bytes with the length of a JSON header, the header, the raw values. The
records stand as JSON in the header's metadata, their tensors among the values. The header is padded so that values
begin at a multiple of 4096, where a page begins if the buffer does. Tensors of one field and dtype stand end to end
under one name: the pictures of 512 samples are one entry and not 512.

What is read is data, never code: records are made from a fixed table of classes, each field checked against its type.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs
import torch
from attrs import field, frozen
from torch import Tensor

from qi_core import data
from qi_core.data import Condition, Latents, Pairs, Samples, grid_tokens
from qi_core.encoded import EncodedPairs, Examples
from qi_core.errors import QiError
from qi_core.portions import Lost, Portion
from qi_core.tensorfiles import DTYPES, NAMES

SCHEMA = 1
"""Changes with every change that an older reader would misread."""
PAGE = 4096
BATCHES = (Samples, Examples, Pairs, EncodedPairs)
KNOWN = (*BATCHES, Condition, Latents, data.Sample, data.Origin, data.Pair, data.StoredError, Lost)
"""The records that may be packed."""
_ODD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Damaged(Exception):
    """Bytes that are no packed portion; the text says what is wrong with them."""


@frozen(kw_only=True)
class Limits:
    """What is taken of a body, checked before anything is made of it."""

    body: int = 8 << 30
    """Bytes of all of it."""
    header: int = 64 << 20
    """Bytes of the header, records included."""
    entries: int = 4096
    """Names in the header."""


@frozen(kw_only=True, eq=False)
class Packed:
    """A portion in two: what is said, and the values."""

    meta: bytes
    """JSON in ASCII."""
    pieces: Mapping[str, tuple[Tensor, ...]]
    """The tensors that stand end to end under each name, contiguous and on the CPU."""
    sizes: Mapping[str, int] = field(init=False)
    """Bytes of each name."""

    def __attrs_post_init__(self) -> None:
        found = {name: sum(piece.nbytes for piece in pieces) for name, pieces in self.pieces.items()}
        object.__setattr__(self, "sizes", found)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Each name whole. Several pieces are joined into one dimension, which copies them."""
        return {
            name: pieces[0] if len(pieces) == 1 else torch.cat([piece.reshape(-1) for piece in pieces])
            for name, pieces in self.pieces.items()
        }


def pack(portion: Portion) -> Packed:
    """Copies nothing that is on the CPU and contiguous. Raises QiError for a batch of records that are not known."""
    writer = _Writer()
    kind = type(portion.batch)
    if kind not in BATCHES:
        wanted = ", ".join(each.__name__ for each in BATCHES)
        raise QiError(
            f"a batch of {kind.__name__} can't be sent to another process; {wanted} can; use engine = 'inline'"
        )
    meta = {
        "schema": SCHEMA,
        "kind": kind.__name__,
        "batch": writer.record(portion.batch, ""),
        "lost": [writer.record(lost, "lost") for lost in portion.lost],
        "names": list(writer.pieces),
    }
    pieces = {name: tuple(each) for name, each in writer.pieces.items()}
    return Packed(meta=json.dumps(meta, separators=(",", ":")).encode("ascii"), pieces=pieces)


def unpack(meta: bytes, tensors: Mapping[str, Tensor]) -> Portion:
    """``pack`` undone: the portion's tensors are views of ``tensors``. Raises Damaged."""
    try:
        told = json.loads(meta)
        if told["schema"] != SCHEMA:
            raise Damaged(f"schema {told['schema']}, this side reads {SCHEMA}: both need versions of qi that fit")
        kind = {each.__name__: each for each in BATCHES}[told["kind"]]
        reader = _Reader(tensors, [str(name) for name in told["names"]])
        batch = reader.record(kind, told["batch"])
        portion = Portion(batch=batch, lost=tuple(reader.record(Lost, each) for each in told["lost"]))
    except Damaged:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError, RuntimeError) as error:
        raise Damaged(f"its records cannot be read ({type(error).__name__}: {error})") from error
    reader.refuse_rest()
    _check(batch)
    return portion


def body(packed: Packed) -> Iterator[memoryview]:
    """The bytes of the safetensors file, piece by piece, none of them copied."""
    # Widest values first, so that every entry starts at a multiple of its element's size.
    names = sorted(packed.pieces, key=lambda name: -packed.pieces[name][0].dtype.itemsize)
    entries: dict[str, object] = {"__metadata__": {"qi": packed.meta.decode("ascii")}}
    start = 0
    for name in names:
        pieces = packed.pieces[name]
        shape = list(pieces[0].shape) if len(pieces) == 1 else [sum(piece.numel() for piece in pieces)]
        stop = start + packed.sizes[name]
        entries[name] = {"dtype": NAMES[pieces[0].dtype], "shape": shape, "data_offsets": [start, stop]}
        start = stop
    header = json.dumps(entries, separators=(",", ":")).encode("ascii")
    header += b" " * (-(8 + len(header)) % PAGE)
    yield memoryview(len(header).to_bytes(8, "little") + header)
    for name in names:
        for piece in packed.pieces[name]:
            if piece.numel():
                yield piece.reshape(-1).view(torch.uint8).numpy().data


def read(buffer: memoryview, limits: Limits | None = None) -> Portion:
    """The portion in a whole body; its tensors are views of the buffer, which they keep alive. Raises Damaged."""
    return unpack(*opened(buffer, limits or Limits()))


def opened(buffer: memoryview, limits: Limits) -> tuple[bytes, dict[str, Tensor]]:
    """The records and the tensors of a body, as views of it. Raises Damaged unless header and body fit each other."""
    size = len(buffer)
    if size > limits.body:
        raise Damaged(f"{size} bytes, {limits.body} are taken")
    length = int.from_bytes(buffer[:8], "little") if size >= 8 else 0
    if not 2 <= length <= size - 8 or length > limits.header:
        raise Damaged(f"a header of {length} bytes in a body of {size}; at most {limits.header} are taken")
    try:
        entries = json.loads(bytes(buffer[8 : 8 + length]))
        meta = entries.pop("__metadata__")["qi"].encode("ascii")
        if len(entries) > limits.entries:
            raise Damaged(f"{len(entries)} entries, {limits.entries} are taken")
        values, tensors, end = 8 + length, dict[str, Tensor](), 0
        for name, about in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            start, stop = about["data_offsets"]
            tensors[name] = _view(buffer, values + start, about["dtype"], about["shape"], stop - start)
            if start != end:
                raise Damaged(f"{name} begins at {start}, what stands before it ends at {end}")
            end = stop
    except Damaged:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError, RuntimeError) as error:
        raise Damaged(f"its header cannot be read ({type(error).__name__}: {error})") from error
    if values + end != size:
        raise Damaged(f"{size} bytes, its header speaks of {values + end}")
    return meta, tensors


def _view(buffer: memoryview, start: int, name: str, shape: list[int], nbytes: int) -> Tensor:
    dtype = DTYPES[name]
    if not all(type(size) is int and size >= 0 for size in shape) or type(start) is not int:
        raise Damaged(f"a tensor of shape {shape} at {start}")
    count = math.prod(shape)
    if nbytes != count * dtype.itemsize or start + nbytes > len(buffer) or start < 8:
        raise Damaged(f"a tensor of {name} {shape} in {nbytes} bytes at {start}, the body has {len(buffer)}")
    if not count:
        return torch.empty(shape, dtype=dtype)
    if start % dtype.itemsize:  # others than us need not put values where the processor likes them
        return torch.frombuffer(bytearray(buffer[start : start + nbytes]), dtype=dtype).view(shape)
    return torch.frombuffer(buffer, dtype=dtype, count=count, offset=start).view(shape)


@frozen(kw_only=True)
class _Slot:
    """A field of a record: what it may hold, and what it holds where nothing is said."""

    name: str
    hint: Any
    default: Any


_NOTHING = object()
_SPOKEN = (str, int, float, bool, tuple, type(None))
"""What a field may hold by default and then goes without saying."""


@cache
def _slots(kind: Any) -> tuple[_Slot, ...]:
    hints = get_type_hints(kind, localns={"Tensor": Tensor})
    return tuple(
        _Slot(
            name=each.name,
            hint=hints[each.name],
            default=each.default if isinstance(each.default, _SPOKEN) else _NOTHING,
        )
        for each in attrs.fields(kind)
        if each.init
    )


class _Writer:
    """Records -> JSON values; their tensors are put aside."""

    def __init__(self) -> None:
        self.pieces: dict[str, list[Tensor]] = {}
        self._numbers: dict[str, int] = {}

    def record(self, item: Any, path: str) -> dict[str, Any]:
        if type(item) not in KNOWN:
            raise QiError(f"a {type(item).__name__} can't be sent to another process; use engine = 'inline'")
        said: dict[str, Any] = {}
        kind: Any = type(item)
        for slot in _slots(kind):
            value = getattr(item, slot.name)
            if not (type(value) is type(slot.default) and value == slot.default):
                said[slot.name] = self._value(value, f"{path}.{slot.name}" if path else slot.name)
        return said

    def _value(self, value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, tuple):
            return [self._value(each, path) for each in value]
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        if value is None or isinstance(value, (str, int, float)):
            return value
        return {type(value).__name__: self.record(value, path)}

    def _tensor(self, tensor: Tensor, path: str) -> list[int]:
        if tensor.dtype not in NAMES:
            raise QiError(f"{path} is of {tensor.dtype}, which can't be sent to another process; cast it")
        name = f"{path}.{NAMES[tensor.dtype]}"
        self.pieces.setdefault(name, []).append(tensor.detach().cpu().contiguous())
        return [self._numbers.setdefault(name, len(self._numbers)), *tensor.shape]


class _Reader:
    """JSON values -> records, by the types of their fields. Raises Damaged or what wrong values raise."""

    def __init__(self, tensors: Mapping[str, Tensor], names: list[str]) -> None:
        if sorted(names) != sorted(tensors):
            raise Damaged(f"its records speak of {sorted(names)}, its values are {sorted(tensors)}")
        self._values = [tensors[name].reshape(-1) for name in names]
        self._used = [0] * len(names)

    def record(self, kind: type, said: dict[str, Any]) -> Any:
        slots = _slots(kind)
        unknown = said.keys() - {slot.name for slot in slots}
        if unknown:
            raise Damaged(f"{kind.__name__} has no field {sorted(unknown)[0]!r}")
        return kind(**{slot.name: self._read(slot.hint, said[slot.name]) for slot in slots if slot.name in said})

    def refuse_rest(self) -> None:
        """Raises Damaged if there are values that no record has."""
        for values, used in zip(self._values, self._used, strict=True):
            if used != len(values):
                raise Damaged(f"{len(values)} values where its records have {used}")

    def _read(self, hint: Any, said: Any) -> Any:
        if get_origin(hint) in (Union, types.UnionType):
            return self._read(_chosen(get_args(hint), said), said)
        if get_origin(hint) is tuple:
            inner = get_args(hint)
            if inner[-1] is Ellipsis:
                return tuple([self._read(inner[0], each) for each in said])
            return tuple([self._read(one, each) for one, each in zip(inner, said, strict=True)])
        if hint is Tensor:
            return self._tensor(said)
        if hint in KNOWN:
            ((name, inside),) = said.items()
            if name != hint.__name__:
                raise Damaged(f"a {name} in the place of a {hint.__name__}")
            return self.record(hint, inside)
        return _PLAIN[hint](said)

    def _tensor(self, said: list[int]) -> Tensor:
        number, *shape = said
        if not all(type(each) is int and each >= 0 for each in said):
            raise Damaged(f"a tensor of {said}")
        start = self._used[number]
        stop = self._used[number] = start + math.prod(shape)
        if stop > len(self._values[number]):
            raise Damaged(f"{len(self._values[number])} values where its records have {stop}")
        return self._values[number][start:stop].view(shape)


def _chosen(hints: tuple[Any, ...], said: Any) -> Any:
    """Which of several types is meant: they differ in the JSON value that stands for them."""
    if said is None:
        return type(None)
    for hint in hints:
        if hint is not type(None) and isinstance(said, dict) == (hint in KNOWN):
            return hint
    raise Damaged(f"{said!r} in the place of {hints}")


def _exactly(kind: type) -> Callable[[Any], Any]:
    def checked(said: Any) -> Any:
        if type(said) is not kind:
            raise Damaged(f"{said!r} in the place of a {kind.__name__}")
        return said

    return checked


def _float(said: Any) -> float:
    if type(said) in (int, float):
        return float(said)
    return _ODD[said]


_PLAIN: dict[Any, Callable[[Any], Any]] = {
    str: _exactly(str),
    int: _exactly(int),
    bool: _exactly(bool),
    type(None): _exactly(type(None)),
    float: _float,
}


def _check(batch: Any) -> None:
    """Raises Damaged where the parts of a batch don't fit each other: what is trained on would be somebody else's."""
    if isinstance(batch, Examples):
        _check_latents(batch.latents)
        _check_condition(batch.condition)
        counts = {len(batch.latents), len(batch.condition), len(batch.slots), len(batch.keys)}
    elif isinstance(batch, EncodedPairs):
        _check_latents(batch.winners)
        _check_latents(batch.losers)
        _check_condition(batch.condition)
        if batch.winners.grids != batch.losers.grids:
            raise Damaged(f"winners of {batch.winners.grids} tokens beside losers of {batch.losers.grids}")
        counts = {len(each) for each in (batch.winners, batch.condition, batch.slots, batch.keys, batch.stored)}
    else:
        counts = {len(batch.items), len(batch.slots)}
        for item in batch.items:
            for each in (getattr(item, name, None) for name in ("winner", "loser")):
                if isinstance(each, Latents):
                    _check_latents(each)
            pictures = [getattr(item, name, None) for name in ("image", "winner", "loser")] + list(item.references)
            if any(isinstance(each, Tensor) and (each.ndim != 3 or each.shape[0] != 3) for each in pictures):
                raise Damaged(f"a picture of {item.key!r} is not of shape (3, H, W)")
    if len(counts) > 1:
        raise Damaged(f"a batch whose parts are of {sorted(counts)} samples")


def _check_latents(latents: Latents) -> None:
    if latents.tokens.ndim != 2 or len(latents.tokens) != sum(map(grid_tokens, latents.grids)):
        raise Damaged(f"tokens of shape {tuple(latents.tokens.shape)} for grids {latents.grids}")


def _check_condition(condition: Condition) -> None:
    if condition.text.ndim != 2 or len(condition.text) != sum(condition.lengths):
        raise Damaged(f"text of shape {tuple(condition.text.shape)} for lengths {condition.lengths}")
    if condition.references is not None:
        _check_latents(condition.references)
    given = 0 if condition.references is None else len(condition.references)
    if len(condition.counts) != len(condition.lengths) or sum(condition.counts) != given:
        raise Damaged(f"{given} references where samples have {condition.counts}")
