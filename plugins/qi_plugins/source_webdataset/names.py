"""Which shards: patterns with braces, stars and lists -> the place of each, in order, and what it is called."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from attrs import frozen

from qi_core.errors import QiError

MOST = 1_000_000
"""Shards of one source; a pattern that gives more is taken for a slip."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SIGNED = re.compile(r"sig|token|credential|expires|policy|api_?key|secret", re.IGNORECASE)
"""In the query of an address: it is a signature, another one tomorrow, and not what tells one file from another."""


@frozen
class Shard:
    """One tar."""

    place: str
    """A path, or an address."""
    name: str
    """What it is called in keys and messages: what its place has beyond what all have in common; no query of an
    address, which may hold a signature."""

    @property
    def remote(self) -> bool:
        return is_address(self.place)

    @property
    def unsigned(self) -> str:
        """Its place without the signature of an address. Other queries (``?file=7``) say which file it is."""
        if not self.remote:
            return os.path.abspath(self.place)
        place, _, query = self.place.partition("?")
        return place if _SIGNED.search(query) else self.place


def is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def shards(patterns: Sequence[str]) -> tuple[Shard, ...]:
    """All of them, each once. Raises QiError for a pattern that gives nothing."""
    places: dict[str, None] = {}
    for pattern in patterns:
        before = len(places)
        for place in _places(pattern):
            if place in places:
                raise QiError(
                    f"source.shards: {_shown(place)} is named twice, the second time by {pattern!r}; its samples would "
                    "be drawn twice as often; take one out"
                )
            places[place] = None
            if len(places) > MOST:
                raise QiError(f"source.shards: {pattern!r}: more than {MOST} shards; look at its braces")
        if len(places) == before:
            raise QiError(
                f"source.shards: {pattern!r}: nothing is there (looked from {os.getcwd()}); wanted a .tar, a folder of "
                "them, a pattern such as 'data/shard-{000000..000099}.tar' or 'data/*.tar', an address, or a .txt that "
                "lists them"
            )
    found = tuple(Shard(place, name) for place, name in zip(places, _names(list(places)), strict=True))
    once: set[str] = set()
    for shard in found:  # one place in the cache would stand for both
        if shard.unsigned in once:
            raise QiError(
                f"source.shards: {shard.unsigned} is named twice, with two signatures; wanted each shard once; take "
                "one out"
            )
        once.add(shard.unsigned)
    return found


def _places(pattern: str) -> Iterator[str]:
    if is_address(pattern):
        yield from expanded(_without_secrets(pattern))
        return
    path = Path(pattern).expanduser()
    if path.is_dir():
        yield from (str(each) for each in sorted(path.glob("*.tar")))
    elif path.suffix == ".txt" and path.is_file():
        yield from _listed(path)
    else:
        for one in expanded(str(path)):
            if glob.has_magic(one) and not os.path.exists(one):
                yield from (_a_tar(found, pattern) for found in sorted(glob.glob(one, recursive=True)))
            elif os.path.exists(one):
                yield _a_tar(one, pattern)
            else:
                raise QiError(
                    f"source.shards: {pattern!r}: there is no {one} (looked from {os.getcwd()}); correct the pattern"
                )


def _a_tar(path: str, pattern: str) -> str:
    if not path.lower().endswith(".tar"):
        raise QiError(
            f"source.shards: {pattern!r}: {path} is no .tar; wanted shards in the WebDataset layout; a compressed tar "
            "has no random access: unpack it to .tar first"
        )
    return path


def _listed(path: Path) -> Iterator[str]:
    """A pattern a line, as seen from the list's folder; # begins a remark."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise QiError(
            f"source.shards: {path}: cannot be read ({error}); wanted a list of shards, one a line"
        ) from error
    for line in lines:
        text = line.partition("#")[0].strip()
        if text.endswith(".txt"):
            raise QiError(f"source.shards: {path}: names another list, {text!r}; wanted shards")
        if text:
            yield from _places(text if is_address(text) else os.path.join(path.parent, text))


def _without_secrets(address: str) -> str:
    found = urlsplit(address)
    if not found.hostname or found.username or found.password or found.fragment:
        raise QiError(
            f"source.shards: {found.scheme}://{found.hostname or ''}{found.path}: wanted an address without user and "
            "password; a token belongs into token_env or token_file"
        )
    return address


def expanded(pattern: str) -> Iterator[str]:
    """``a-{00..02}.tar`` -> a-00.tar, a-01.tar, a-02.tar; ``{x,y}/1.tar`` -> x/1.tar, y/1.tar."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    for choice in _choices(match[1], pattern):
        yield from expanded(pattern[: match.start()] + choice + pattern[match.end() :])


def _choices(text: str, pattern: str) -> Iterator[str]:
    if found := _RANGE.fullmatch(text):
        first, last = int(found[1]), int(found[2])
        if last < first or last - first >= MOST:
            raise QiError(f"source.shards: {pattern!r}: {{{text}}} is no range of shards; wanted {{first..last}}")
        padded = len(found[1]) if found[1].startswith("0") or len(found[1]) == len(found[2]) else 0
        yield from (str(number).zfill(padded) for number in range(first, last + 1))
    elif "," in text:
        yield from text.split(",")
    else:
        raise QiError(f"source.shards: {pattern!r}: {{{text}}} is neither {{first..last}} nor {{one,other}}")


def _names(places: list[str]) -> list[str]:
    plain = [_shown(place) for place in places]
    if len(places) == 1:
        return [plain[0].rpartition("/")[2]]
    steps = [place.split("/") for place in plain]
    first, last = min(steps), max(steps)
    cut = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    names = ["/".join(own[cut:]) for own in steps]
    return names if len(set(names)) == len(names) else [f"{number}/{name}" for number, name in enumerate(names)]


def _shown(place: str) -> str:
    """Without what may be secret."""
    return place.partition("?")[0] if is_address(place) else place.replace(os.sep, "/")
