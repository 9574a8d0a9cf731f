"""Prompt -> tokens. A quoted "red" (three characters) and the word red never share a token."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from attrs import frozen

QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”')
IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # written without spaces: each is its own word
WORDS = re.compile(rf"[{IDEOGRAPHS}]|[^\W{IDEOGRAPHS}]+|[^\w\s]")


@frozen
class Token:
    """One token: what stands there, and for a quoted character its place within the quotes."""

    name: str
    """``character:A`` or ``word:red``: two namespaces; ``empty`` for a prompt with nothing in it."""
    place: int | None = None


EMPTY = Token("empty")


def tokenize(prompt: str) -> tuple[Token, ...]:
    """At least one token. A quote that is never closed is punctuation."""
    return tuple(_tokens(unicodedata.normalize("NFC", prompt))) or (EMPTY,)


def _tokens(prompt: str) -> Iterator[Token]:
    end = 0
    for match in QUOTED.finditer(prompt):
        yield from _words(prompt[end : match.start()])
        quoted = match[1] if match[1] is not None else match[2]
        yield from (Token(f"character:{character}", place) for place, character in enumerate(quoted))
        end = match.end()
    yield from _words(prompt[end:])


def _words(text: str) -> Iterator[Token]:
    return (Token(f"word:{word}") for word in WORDS.findall(text.lower()))
