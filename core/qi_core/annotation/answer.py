"""From what a model said to an annotation, strictly."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from attrs import frozen

from qi_core import captions, chat
from qi_core.chat import CUT_OFF, Reply

LONGEST = 64 * 2**10
"""Characters of an answer; more is a model that doesn't find its end."""


class Refused(Exception):
    """An answer that won't do: a reason to count by, and the detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


@frozen(kw_only=True)
class Annotation:
    """What is said of a picture."""

    caption: str
    type: str
    style: str
    watermarks: tuple[str, ...]
    abnormal: bool


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    """The keys as the report has them."""

    caption: str = msgspec.field(name="Caption")
    type: str = msgspec.field(name="Image Type")
    style: str = msgspec.field(name="Image Style")
    watermarks: list[str] = msgspec.field(name="Watermark List")
    abnormal: str = msgspec.field(name="Abnormal Element")


_FAULTS = {"empty": "an empty answer", "refusal": "a refusal"}
_YES, _NO = ("yes", "是", "有"), ("no", "否", "无")


def parsed(reply: Reply) -> Annotation:
    """The one JSON object in an answer, whatever stands around it. Raises Refused."""
    if reply.cut_off:
        raise Refused(CUT_OFF)
    text = reply.text
    if len(text) > LONGEST:
        raise Refused("an answer too long", f"{len(text)} characters, {LONGEST} allowed")
    objects = list(chat.objects(text, json.JSONDecoder(object_pairs_hook=_once)))
    if not objects:
        raise Refused(_FAULTS.get(captions.fault(text), "no JSON object in the answer"))
    if len(objects) > 1:
        raise Refused("several JSON objects in the answer", f"{len(objects)}, one wanted")
    try:
        found = msgspec.convert(objects[0], _Answer)
    except msgspec.ValidationError as error:
        raise Refused("other keys or types in the JSON", str(error)) from error
    abnormal = found.abnormal.strip().casefold()
    if abnormal not in (*_YES, *_NO):
        raise Refused(
            "other keys or types in the JSON", f'"Abnormal Element" is {abnormal[:40]!r}, "yes" or "no" wanted'
        )
    return Annotation(
        caption=found.caption.strip(),
        type=found.type.strip(),
        style=found.style.strip(),
        watermarks=tuple(mark.strip() for mark in found.watermarks),
        abnormal=abnormal in _YES,
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise Refused("other keys or types in the JSON", "a key stands there twice")
    return made
