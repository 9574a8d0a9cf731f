"""Reads text in pictures: PP-OCR as the package rapidocr carries it (the extra ``qi[ocr]``)."""

from __future__ import annotations

import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from PIL import Image

from qi_core.errors import QiError

if TYPE_CHECKING:
    from torch import Tensor

Bytes = NDArray[np.uint8]
Box = tuple[tuple[float, float], ...]
"""Four corners (x, y) in pixels, clockwise from where the text begins."""
REMEMBERED = 64
"""Pictures whose text is remembered, since several filters ask of the same one."""


@frozen(kw_only=True)
class Line:
    """One line of text as it was read."""

    text: str
    confidence: float
    box: Box = ()
    """Where it stands in the picture; empty where lines were not looked for."""

    @property
    def height(self) -> float:
        """Pixels from the top of its letters to their foot: the mean of the box's two ends."""
        (a, b, c, d) = (np.array(corner) for corner in self.box)
        return float(np.linalg.norm(d - a) + np.linalg.norm(c - b)) / 2

    @property
    def area(self) -> float:
        """Pixels of its box (the shoelace formula)."""
        x, y = np.array(self.box).T
        return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


class Settings(Protocol):
    """How pictures are shown to the reader."""

    @property
    def detect(self) -> bool:
        """Find the lines of text first; False: the whole picture is one line."""
        ...

    @property
    def enlarge(self) -> int:
        """Pictures are enlarged by so much before they are read."""
        ...

    @property
    def resample(self) -> Literal["bicubic", "nearest"]: ...

    @property
    def margin(self) -> int:
        """Pixels put around the (enlarged) picture."""
        ...

    @property
    def side(self) -> int:
        """To find lines, a picture whose shorter side is less is enlarged to this."""
        ...

    @property
    def threads(self) -> int:
        """Threads that read one picture."""
        ...


@frozen(kw_only=True)
class Plainly:
    """Settings of a reader that finds the lines itself."""

    detect: bool = True
    enlarge: int = 1
    resample: Literal["bicubic", "nearest"] = "bicubic"
    margin: int = 0
    side: int = 736
    threads: int = 1


class Engine:
    """One reader. Not for two threads at once."""

    def __init__(self, settings: Settings, who: str) -> None:
        """Loads the models. Raises QiError, in the name of ``who``, where they aren't there."""
        self.settings = settings
        models = models_of(who)
        from rapidocr import RapidOCR

        self._read: Any = RapidOCR(
            params={
                # Files that are named are never fetched.
                "Det.model_path": str(models["det"]),
                "Rec.model_path": str(models["rec"]),
                "Det.limit_side_len": settings.side,
                "Global.use_cls": False,  # upside-down text is not what was asked for
                "Global.text_score": 0.0,  # what is too unsure is decided here, for single lines too
                "Global.log_level": "critical",
                # More threads than processors would be taken for no number at all, that is for all processors.
                "EngineConfig.onnxruntime.intra_op_num_threads": min(settings.threads, os.cpu_count() or 1),
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )
        blank = np.zeros((32, 64, 3), dtype=np.uint8)
        self._read(blank, use_det=False)  # models are loaded by the first call
        if settings.detect:
            self._read(blank, use_det=True)

    def lines(self, picture: Bytes) -> list[Line]:
        """``picture``: (H, W, 3), RGB. From the top to the bottom, and from left to right."""
        shown = np.ascontiguousarray(enlarged(picture, self.settings)[..., ::-1])  # OpenCV's order: BGR
        found = self._read(shown, use_det=self.settings.detect)
        texts, scores = found.txts or (), found.scores or ()
        boxes = [()] * len(texts) if getattr(found, "boxes", None) is None else self._placed(found.boxes)
        return [
            Line(text=text, confidence=float(score), box=box)
            for text, score, box in zip(texts, scores, boxes, strict=True)
        ]

    def _placed(self, boxes: NDArray[np.float32]) -> Sequence[Box]:
        """(lines, 4, 2) in the picture that was shown -> in the picture itself."""
        own = (boxes.astype(np.float64) - self.settings.margin) / self.settings.enlarge
        return [tuple((float(x), float(y)) for x, y in box) for box in own]


class Readers:
    """Some readers that any threads may ask, and what the last pictures said."""

    def __init__(self, settings: Settings, count: int, who: str) -> None:
        """Loads the models so many times: up to 400 MB each while they read."""
        self._free: queue.SimpleQueue[Engine] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(Engine(settings, who))
        self._known: OrderedDict[bytes, tuple[Line, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def lines(self, image: Tensor) -> tuple[Line, ...]:
        """Of a picture, (3, H, W) uint8."""
        picture = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        name = blake2b(picture.tobytes(), digest_size=16, person=repr(picture.shape).encode()[:16]).digest()
        with self._lock:
            if name in self._known:
                self._known.move_to_end(name)
                return self._known[name]
        engine = self._free.get()
        try:
            found = tuple(engine.lines(picture))
        finally:
            self._free.put(engine)
        with self._lock:
            self._known[name] = found
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found


@lru_cache(maxsize=2)
def shared(settings: Plainly, count: int) -> Readers:
    """The same readers for all who ask for them with the same settings: filters of one recipe."""
    return Readers(settings, count, "filter")


def enlarged(picture: Bytes, settings: Settings) -> Bytes:
    """(H, W, 3) larger by a whole factor, and with a margin that goes on as the edge is."""
    if settings.enlarge > 1:
        height, width, _ = picture.shape
        how = Image.Resampling.BICUBIC if settings.resample == "bicubic" else Image.Resampling.NEAREST
        picture = np.asarray(
            Image.fromarray(picture).resize((width * settings.enlarge, height * settings.enlarge), how)
        )
    margin = settings.margin
    return np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="edge") if margin else picture


def models_of(who: str) -> dict[str, Path]:
    """The files that find lines ("det") and read them ("rec"). Raises QiError unless they lie inside the package."""
    missing = [name for name in ("rapidocr", "onnxruntime", "rapidfuzz") if find_spec(name) is None]
    if missing:
        raise QiError(
            f"{who}: {' and '.join(missing)} not installed; wanted for reading pictures; pip install 'qi[ocr]'"
        )
    spec = find_spec("rapidocr")
    assert spec is not None
    folder = Path(str(spec.origin)).parent / "models"
    models: dict[str, Path] = {}
    for part in ("det", "rec"):
        files = sorted(folder.glob(f"*_{part}_*.onnx"))
        if len(files) != 1:
            raise QiError(
                f"{who}: {folder} holds {len(files)} files *_{part}_*.onnx; wanted the one that rapidocr's wheel "
                "carries; pip install --force-reinstall rapidocr"
            )
        models[part] = files[0]
    return models
