"""``checkpoint.json``: what belongs to a checkpoint, and how each file looks when it is whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import asdict, frozen

from qi_core import QiError
from qi_core.tensorfiles import Stamp, stamp

FORMAT = "qi-checkpoint"
VERSION = 2
"""1: all files beside each other. 2: a folder for each group of tensors."""
READ = (1, 2)
MANIFEST = "checkpoint.json"


@frozen(kw_only=True)
class Manifest:
    """Written last of all."""

    step: int
    groups: Mapping[str, tuple[str, ...]]
    """Group of tensors -> its files."""
    files: Mapping[str, Stamp]

    def text(self) -> str:
        return json.dumps({"format": FORMAT, "version": VERSION} | asdict(self), indent=1) + "\n"

    @staticmethod
    def read(path: Path) -> Manifest:
        """Raises QiError if it isn't there or not one of ours."""
        try:
            raw = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']!r}, {FORMAT!r} was wanted")
            if raw["version"] not in READ:
                raise QiError(
                    f"{path / MANIFEST}: version {raw['version']}; this qi reads versions {', '.join(map(str, READ))}; "
                    "use the qi that wrote it"
                )
            return Manifest(
                step=raw["step"],
                groups={group: tuple(files) for group, files in raw["groups"].items()},
                files={name: Stamp(**value) for name, value in raw["files"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise QiError(f"{path / MANIFEST}: no manifest of a checkpoint ({error}); take another step") from error


def damages(path: Path, manifest: Manifest, names: Sequence[str] | None = None) -> Iterator[str]:
    """What is wrong with the files of a checkpoint (those of ``names``), one line each."""
    for name in manifest.files if names is None else names:
        wanted = manifest.files[name]
        try:
            found = stamp(path / name)
        except OSError as error:
            yield f"{path / name}: cannot be read ({error.strerror}); {wanted.bytes} bytes were wanted"
            continue
        if found != wanted:
            yield (
                f"{path / name}: damaged: {found.bytes} bytes with checksum {found.crc32}; "
                f"{wanted.bytes} bytes with {wanted.crc32} were wanted"
            )
