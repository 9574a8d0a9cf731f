"""The settings of ``token-length`` and ``invalid-caption``, and how they measure."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, field, frozen, validators

from qi_core.bar import Bar, above_none, in_order, or_none
from qi_core.errors import QiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qi_core import Filter, Place, Sample


def _known(_: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    from qi_core.captions import FAULTS

    for fault in value:
        if fault not in FAULTS:
            raise ValueError(f"'{attribute.name}' has {fault!r}; wanted of {', '.join(FAULTS)}")


def _with_a_tokenizer(instance: TokenLength, _: Attribute[Any], value: Path | None) -> None:
    if (value is None) == (instance.unit == "tokens"):
        raise ValueError("unit = 'tokens' goes with the folder of a tokenizer in 'path'; other units go without")


@frozen(kw_only=True)
class TokenLength:
    """How long the caption is: in words, in characters, or in tokens of the model that will read it.

    Stage S3 of the report: what is too short says too little, and what is longer than the conditioner reads is cut.
    """

    least: int = field(default=0, validator=validators.ge(0))
    """0: not asked."""
    most: int = field(default=0, validator=[validators.ge(0), in_order])
    """0: not asked."""
    unit: Literal["words", "characters", "tokens"] = "words"
    """A word of a script without spaces (Chinese, Japanese) is a character of it. Punctuation is no word."""
    path: Path | None = field(default=None, validator=_with_a_tokenizer)
    """With unit = "tokens", the folder of a tokenizer in transformers' layout (of a released model:
    <model>/tokenizer). Nothing is downloaded."""

    def build(self, place: Place) -> Filter:
        count = self.counter()
        return Bar(
            measuring=lambda sample: float(count(sample.prompt)),
            least=above_none(self.least),
            most=or_none(self.most),
            below="caption too short",
            above="caption too long",
        )

    def counter(self) -> Callable[[str], int]:
        """Caption -> its length. Raises QiError where there is no tokenizer."""
        if self.path is not None:
            return _tokens(self.path.expanduser())
        if self.unit == "characters":
            return len
        from qi_core.captions import units

        return lambda text: len(units(text))


@frozen(kw_only=True)
class InvalidCaption:
    """Whether the caption is none: a refusal ("Sorry, I cannot ...", 抱歉), a loop, a file's name, markup, or nothing.

    By rules, English and Chinese (qi_core.captions). Stage S3 of the report. The value is 0 for a caption, else the
    number of the rule, in the order of ``faults``' default, from 1.
    """

    faults: tuple[str, ...] = field(
        default=("empty", "refusal", "repetition", "file name", "markup or address", "talks to its reader"),
        validator=_known,
    )
    """What is refused; leave out "empty" for samples that are to be trained without words."""

    def build(self, place: Place) -> Filter:
        return Invalid(self.faults)


class Invalid:
    """A live ``invalid-caption``."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        self._faults = faults

    def measure(self, sample: Sample) -> float:
        """See ``Filter.measure``."""
        from qi_core.captions import FAULTS, fault

        found = fault(sample.prompt)
        return float(FAULTS.index(found) + 1) if found else 0.0

    def refuses(self, value: float) -> str:
        """See ``Filter.refuses``."""
        from qi_core.captions import FAULTS

        found = FAULTS[int(value) - 1] if value > 0 else ""
        return found if found in self._faults else ""


def _tokens(folder: Path) -> Callable[[str], int]:
    if find_spec("transformers") is None:
        raise QiError(
            "filter token-length: transformers is not installed; wanted for unit = 'tokens'; pip install 'qi[qwen]'"
        )
    if not folder.is_dir():
        raise QiError(f"filter token-length: path: there is no folder {folder}; wanted a tokenizer's; correct it")
    import threading

    from transformers import AutoTokenizer

    from qi_core.pretrained import in_one_line

    with in_one_line(f"filter token-length: {folder}", "a tokenizer in transformers' layout", "correct path"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    lock = threading.Lock()  # a fast tokenizer that is used while its settings change refuses

    def count(text: str) -> int:
        with lock:
            return len(tokenizer(text, truncation=False, verbose=False, add_special_tokens=False)["input_ids"])

    return count
