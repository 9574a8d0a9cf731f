"""What is to be drawn: prompts out of a source or a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal, Protocol

from attrs import field, frozen

from qi_core import material
from qi_core.errors import QiError
from qi_core.pixels import Unusable, decode, prepare, read_header, resize, size_of
from qi_core.place import Closing
from qi_core.sizes import Size, crop_box, own_size, scale

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core.data import Samples
    from qi_core.source import Source

KEYS = {"id": str, "prompt": str, "text": str, "references": list, "height": int, "width": int}
PIXELS = 100_000_000
"""That a reference may claim to have."""


@frozen(kw_only=True, eq=False)
class Task:
    """A prompt to draw pictures for."""

    id: str
    prompt: str
    size: tuple[int, int]
    """(height, width) in pixels."""
    text: str = ""
    references: tuple[Tensor, ...] = ()
    """Each (3, H, W) uint8."""


class Prompts(Protocol):
    """An endless list of tasks with a position."""

    def draw(self, count: int) -> list[Task]:
        """The next ones."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def report(self) -> dict[str, int]: ...

    def close(self) -> None:
        """Let go of threads and the like."""
        ...


@frozen
class FromSource:
    """The prompts of a source of samples; its pictures are left unused."""

    source: Source[Samples]

    def draw(self, count: int) -> list[Task]:
        return [
            Task(
                id=sample.key,
                prompt=sample.prompt,
                size=(sample.image.shape[1], sample.image.shape[2]),
                text=sample.text,
                references=sample.references,
            )
            for sample in self.source.draw(count)
        ]

    def state_dict(self) -> dict[str, Any]:
        return self.source.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.source.load_state_dict(state)

    def report(self) -> dict[str, int]:
        return {f"prompts: {reason}": count for reason, count in self.source.report().items()}

    def close(self) -> None:
        if isinstance(self.source, Closing):
            self.source.close()


@frozen(kw_only=True)
class Line:
    """A prompt as a file has it."""

    id: str
    prompt: str
    size: tuple[int, int]
    text: str
    references: tuple[Path, ...]


class FromFile:
    """The prompts of a file, each once a round, shuffled anew each round."""

    def __init__(
        self,
        lines: Sequence[Line],
        seed: int,
        multiple: int,
        name: str = "file",
        changed: Literal["refuse", "next-epoch"] = "refuse",
    ) -> None:
        """``name``: what messages call the file."""
        self._lines, self._seed, self._multiple, self._n = lines, seed, multiple, 0
        self._files = {name: material.digest(map(_told, lines))}
        self._changed: Literal["refuse", "next-epoch"] = changed
        self._orders: dict[int, list[int]] = {}

    def draw(self, count: int) -> list[Task]:
        tasks = [self._task(n) for n in range(self._n, self._n + count)]
        self._n += count
        return tasks

    def state_dict(self) -> dict[str, Any]:
        return {"n": self._n, "files": self._files, "lines": len(self._lines)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position. Raises QiError if the file is not what it was and ``changed`` refuses that."""
        self._n = int(state["n"])
        if material.unchanged(state.get("files"), self._files, self._changed):
            self._n = material.next_round(self._n, state["lines"], len(self._lines))

    def report(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        """Nothing is held."""

    def _task(self, n: int) -> Task:
        line = self._lines[self._place(n)]
        return Task(
            id=line.id,
            prompt=line.prompt,
            size=line.size,
            text=line.text,
            references=tuple(_picture(path, line.size, self._multiple) for path in line.references),
        )

    def _place(self, n: int) -> int:
        """Where the n-th prompt stands in the file."""
        epoch, index = divmod(n, len(self._lines))
        if epoch not in self._orders:
            dice = Random(f"{self._seed}/prompts/{epoch}")  # whose random() is the same in all versions
            lots = [dice.random() for _ in self._lines]
            self._orders = {epoch: sorted(range(len(lots)), key=lots.__getitem__)}
        return self._orders[epoch][index]


@frozen
class Reader:
    """Reads a file of prompts. Raises QiError naming file and line; no line is passed over but empty ones."""

    path: Path
    size: tuple[int, int]
    """(height, width) of prompts that don't say."""
    multiple: int
    _ids: dict[str, int] = field(factory=dict, init=False)

    def read(self) -> list[Line]:
        if self.path.suffix == ".json":  # its lines are no prompts
            raise QiError(f"{self.path}: a .json file; wanted text with a prompt a line, or a .jsonl; save it as one")
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise QiError(f"{self.path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
        except OSError as error:
            raise QiError(f"{self.path}: {error.strerror}; wanted a file of prompts, one a line") from error
        rows = [(number, row.strip()) for number, row in enumerate(text.split("\n"), 1) if row.strip()]
        if not rows:
            raise QiError(f"{self.path}: holds no prompt; wanted at least one")
        return [self._line(number, row) for number, row in rows]

    def _line(self, number: int, row: str) -> Line:
        record: dict[str, Any] = self._record(number, row) if self.path.suffix == ".jsonl" else {"prompt": row}
        name = record.get("id", str(number))
        if self._ids.setdefault(name, number) != number:
            raise QiError(
                f"{self.path}:{number}: id {name!r} is that of line {self._ids[name]} too; wanted one of its own"
            )
        height, width = size = record.get("height", self.size[0]), record.get("width", self.size[1])
        if min(size) <= 0 or height % self.multiple or width % self.multiple:
            raise QiError(
                f"{self.path}:{number}: {width}x{height} pixels; wanted sides that are multiples of {self.multiple} "
                "(the autoencoder's scale)"
            )
        references = tuple(self.path.parent / path for path in record.get("references", ()))
        for path in references:
            if not path.is_file():
                raise QiError(f"{self.path}:{number}: {path} is no file; wanted a picture to edit")
        return Line(id=name, prompt=record["prompt"], size=size, text=record.get("text", ""), references=references)

    def _record(self, number: int, row: str) -> dict[str, Any]:
        where = f"{self.path}:{number}"
        try:
            record = json.loads(row)
        except ValueError as error:
            raise QiError(f"{where}: not JSON ({error}); wanted an object a line") from None
        if not isinstance(record, dict) or "prompt" not in record:
            raise QiError(f'{where}: found {row[:60]!r}; wanted an object with a "prompt"')
        for key, value in record.items():
            if key not in KEYS:
                raise QiError(f"{where}: unknown key {key!r}; known are {', '.join(KEYS)}")
            parts = value if isinstance(value, list) else []
            if type(value) is not KEYS[key] or not all(isinstance(part, str) for part in parts):
                wanted = {str: "text", int: "a whole number", list: "a list of paths"}[KEYS[key]]
                raise QiError(f"{where}: {key} is {value!r}; wanted {wanted}")
        return record


def _told(line: Line) -> str:
    """What a prompt is: pictures to edit by name and size."""
    sizes = [f"{path.name} {path.stat().st_size}" for path in line.references]
    return repr((line.id, line.prompt, line.size, line.text, sizes))


def _picture(path: Path, like: tuple[int, int], multiple: int) -> Tensor:
    """(3, H, W) uint8 of its own shape, of at most about as many pixels as will be drawn."""
    import torch

    prepare()
    try:
        with path.open("rb") as file:
            image = read_header(file, PIXELS)
            stored = size_of(image)
            target: Size = own_size(like[0] * like[1], stored, multiple, enlarge=False)
            rgb = decode(image, scale(stored, target), (255, 255, 255))
            seen = Size(height=rgb.height, width=rgb.width)
            return torch.from_numpy(resize(rgb, target, crop_box(seen, target, 0.5, 0.5), False))
    except (OSError, Unusable) as error:
        raise QiError(f"{path}: {error}; wanted a picture to edit; mend it or take its line out") from error
