"""What the model is asked: texts in files, one set a language, or a file of the user's."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Literal

from attrs import frozen

from qi_core.errors import QiError

Language = Literal["en", "zh"]
LONGEST = 64 * 2**10
"""Bytes of a prompt in a file."""


@frozen(kw_only=True)
class Prompts:
    """What is asked of every picture."""

    ask: str
    hint: str
    """Put before it where something is known already; ``{hint}`` becomes that."""
    again: str
    """Said to an answer that won't do; ``{reason}`` becomes why."""

    @property
    def digest(self) -> str:
        """Tells one set from another."""
        told = "\0".join((self.ask, self.hint, self.again)).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(told, digest_size=8).hexdigest()

    def question(self, hint: str) -> str:
        """For one picture."""
        return f"{self.hint.replace('{hint}', hint)}\n{self.ask}" if hint else self.ask


def shipped(language: Language, own: Path | None = None) -> Prompts:
    """Those of a language; ``own``: a file in place of the question. Raises QiError."""

    def text(name: str) -> str:
        return files("qi_core.annotation").joinpath("prompts", f"{language}{name}.txt").read_text(encoding="utf-8")

    ask = text("") if own is None else _read(own)
    return Prompts(ask=ask.strip(), hint=text(".hint").strip(), again=text(".again").strip())


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QiError(f"{path}: no prompt can be read ({error}); wanted a UTF-8 text file") from error
    if not text.strip() or len(content) > LONGEST:
        found = "is empty" if not text.strip() else f"has more than {LONGEST} bytes"
        raise QiError(f"{path}: {found}; wanted the prompt that asks for an annotation")
    if missing := [
        key
        for key in ("Caption", "Image Type", "Image Style", "Watermark List", "Abnormal Element")
        if f'"{key}"' not in text
    ]:
        raise QiError(
            f'{path}: the prompt does not ask for "{missing[0]}"; wanted one that asks for a JSON object with the keys '
            '"Caption", "Image Type", "Image Style", "Watermark List" and "Abnormal Element"'
        )
    return text
