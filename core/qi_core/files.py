"""Files that are whole or not there."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from qi_core.errors import QiError


def write_whole(path: Path, content: bytes) -> None:
    """Write beside, flush to disk, rename: readers see the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise QiError(f"{path}: could not be written ({error.strerror}); what was there before is whole") from error


def sync_folder(path: Path) -> None:
    """Make the names in a folder last: a rename is safe only when its folder is on the disk too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path, what: str) -> Generator[None]:
    """Hold a folder; the lock goes with the process, however it ends. Raises QiError if another process holds it."""
    path = folder / "lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise BlockingIOError  # who held it has just renamed the folder, and begins anew there
        except BlockingIOError:
            raise QiError(
                f"{folder}: {what} is already going on there; stop it first, or choose another folder"
            ) from None
        yield


def is_locked(folder: Path) -> bool:
    """Whether some process holds the folder."""
    path = folder / "lock"
    if not path.exists():
        return False
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
