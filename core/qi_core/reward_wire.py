"""What a reward's client and server say to each other; docs/rewards.md has it in words. Nothing is ever pickled.

Every message is a map, written as MessagePack or as JSON (there, bytes are base64), by the content type of the request.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from qi_core.reward import Candidate, Scores

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
"""Changes with every change of a message that an older side would misread."""
MSGPACK, JSON = "application/msgpack", "application/json"
Encoding = Literal["raw", "png"]
M = TypeVar("M", bound=Struct)


class Unreadable(Exception):
    """A message that is none, or a picture in it; the text says why, for the other side to read."""


class OtherSchema(Unreadable):
    """A message of a version that isn't spoken here: no later one will be."""


class Image(Struct, frozen=True, forbid_unknown_fields=True):
    """An RGB picture without loss."""

    height: int
    width: int
    data: bytes
    """``raw``: height x width x 3 bytes, row by row; ``png``: an RGB file of that size."""
    encoding: Encoding = "raw"


class Item(Struct, frozen=True, forbid_unknown_fields=True):
    """A candidate."""

    key: str
    group: str
    prompt: str
    image: Image
    text: str = ""
    references: tuple[Image, ...] = ()


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """Judge these. One id stands for one request: the same id with other candidates is refused."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    reward: str
    candidates: tuple[Item, ...]
    schema: int = SCHEMA


class Answer(Struct, frozen=True, forbid_unknown_fields=True):
    """One value a candidate, in the order of the request; null where it could not be told, counted by reason."""

    id: str
    values: tuple[float | None, ...]
    schema: int
    parts: dict[str, tuple[float | None, ...]] = {}
    failures: dict[str, int] = {}


class Problem(Struct, frozen=True):
    """The body of every answer with a status other than 200."""

    error: str
    schema: int = SCHEMA


class Limits(Struct, frozen=True):
    """What a server takes in one request."""

    body: int = 128 * 2**20
    """Bytes."""
    pixels: int = 16 * 2**20
    """Of one picture."""
    total_pixels: int = 64 * 2**20
    """Of all pictures, references too: three bytes each in memory."""
    candidates: int = 256


class Offered(Struct, frozen=True):
    """One reward of a server."""

    name: str
    groupwise: bool


class Offers(Struct, frozen=True):
    """What a server can do."""

    schema: int
    rewards: tuple[Offered, ...]
    limits: Limits


class Health(Struct, frozen=True):
    """It answers at all."""

    status: str = "ok"
    schema: int = SCHEMA


def encode(message: Struct, content_type: str) -> bytes:
    return msgspec.json.encode(message) if content_type == JSON else msgspec.msgpack.encode(message)


def decode(body: bytes, content_type: str, kind: type[M]) -> M:
    """Raises Unreadable unless it is a whole message of that kind and of this schema."""
    library: Any = msgspec.json if content_type == JSON else msgspec.msgpack
    try:
        schema = library.decode(body, type=_Version).schema
        if schema != SCHEMA:
            raise OtherSchema(f"schema {schema}; wanted {SCHEMA}: both sides need versions of qi that fit")
        return library.decode(body, type=kind)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"no {kind.__name__.lower()} ({error})") from error


class _Version(Struct, frozen=True):
    schema: int


def request(reward: str, candidates: Sequence[Candidate], encoding: Encoding) -> Request:
    """Its id follows from what it asks, so that it is the same when it is sent again."""
    items = tuple(
        Item(
            key=candidate.key,
            group=candidate.group,
            prompt=candidate.prompt,
            image=image(candidate.image, encoding),
            text=candidate.text,
            references=tuple(image(reference, encoding) for reference in candidate.references),
        )
        for candidate in candidates
    )
    return Request(id=_name(reward, items), reward=reward, candidates=items)


def _name(reward: str, items: Sequence[Item]) -> str:
    digest = hashlib.sha256(reward.encode())
    for item in items:
        pictures = (item.image, *item.references)
        sizes = [(each.height, each.width, each.encoding, len(each.data)) for each in pictures]
        digest.update(msgspec.msgpack.encode((item.key, item.group, item.prompt, item.text, sizes)))
        for each in pictures:
            digest.update(each.data)
    return digest.hexdigest()[:32]


def image(picture: Tensor, encoding: Encoding) -> Image:
    """From (3, H, W) uint8."""
    _, height, width = picture.shape
    data = png(picture) if encoding == "png" else _rows(picture).tobytes()
    return Image(height=height, width=width, data=data, encoding=encoding)


def png(picture: Tensor) -> bytes:
    """(3, H, W) uint8 -> a file without loss. Compressed little: twice as fast, some percent larger."""
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(_rows(picture)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _rows(picture: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(3, H, W) -> (H, W, 3). Five times as fast as a transposed copy."""
    return np.stack(list(picture.numpy()), axis=-1)


def candidates_of(message: Request, limits: Limits) -> list[Candidate]:
    """Decoded. Raises Unreadable; nothing beyond the limits is decoded."""
    pictures = [each for item in message.candidates for each in (item.image, *item.references)]
    if len(message.candidates) > limits.candidates:
        raise Unreadable(f"{len(message.candidates)} candidates; at most {limits.candidates} are taken")
    for each in pictures:
        if each.height < 1 or each.width < 1 or each.height * each.width > limits.pixels:
            raise Unreadable(f"a picture of {each.width}x{each.height}; at most {limits.pixels} pixels are taken")
    total = sum(each.height * each.width for each in pictures)
    if total > limits.total_pixels:
        raise Unreadable(f"{total} pixels in all; at most {limits.total_pixels} are taken")
    return [
        Candidate(
            key=item.key,
            group=item.group,
            prompt=item.prompt,
            image=pixels_of(item.image),
            text=item.text,
            references=tuple(pixels_of(each) for each in item.references),
        )
        for item in message.candidates
    ]


def pixels_of(message: Image) -> Tensor:
    """(3, H, W) uint8. Raises Unreadable unless its data hold just the size that it claims."""
    import torch

    data = message.data if message.encoding == "raw" else _unpacked(message)
    wanted = message.height * message.width * 3
    if len(data) != wanted:
        raise Unreadable(f"{len(data)} bytes for {message.width}x{message.height} pixels; wanted {wanted}")
    rows = np.frombuffer(data, dtype=np.uint8).reshape(message.height, message.width, 3)
    return torch.from_numpy(rows.transpose(2, 0, 1).copy(order="C"))


def _unpacked(message: Image) -> bytes:
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(message.data), formats=("PNG",)) as file:
            if (file.height, file.width) != (message.height, message.width) or file.mode != "RGB":
                raise Unreadable(
                    f"a PNG of {file.width}x{file.height}, mode {file.mode}; "
                    f"wanted {message.width}x{message.height}, mode RGB"
                )
            return bytes(file.tobytes())
    except Unreadable:
        raise
    except Exception as error:  # broken files make Pillow raise almost anything
        raise Unreadable(f"a PNG that cannot be decoded ({type(error).__name__})") from error


def answer(request_id: str, scores: Scores) -> Answer:
    return Answer(
        id=request_id,
        schema=SCHEMA,
        values=scores.values,
        parts=dict(scores.parts),
        failures=dict(scores.failures),
    )


def scores_of(message: Answer, asked: Request) -> Scores:
    """Raises Unreadable if it answers something else, or not every candidate."""
    if message.id != asked.id:
        raise Unreadable("the answer to another request")
    count = len(asked.candidates)
    if any(len(each) != count for each in (message.values, *message.parts.values())):
        raise Unreadable("a wrong number of values")
    return Scores(values=message.values, parts=message.parts, failures=message.failures)
