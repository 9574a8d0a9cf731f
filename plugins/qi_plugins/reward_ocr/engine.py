"""The reader: PP-OCR as the package rapidocr carries it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from PIL import Image

from qi_core import QiError
from qi_plugins.reward_ocr.component import Ocr

Bytes = NDArray[np.uint8]


@frozen(kw_only=True)
class Line:
    """One line of text as it was read."""

    text: str
    confidence: float


class Engine:
    """One reader. Not for two threads at once."""

    def __init__(self, settings: Ocr) -> None:
        """Loads the models. Raises QiError where they aren't there."""
        self.settings = settings
        models = models_of()
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
        return [Line(text=text, confidence=float(score)) for text, score in zip(texts, scores, strict=True)]


def enlarged(picture: Bytes, settings: Ocr) -> Bytes:
    """(H, W, 3) larger by a whole factor, and with a margin that goes on as the edge is."""
    if settings.enlarge > 1:
        height, width, _ = picture.shape
        how = Image.Resampling.BICUBIC if settings.resample == "bicubic" else Image.Resampling.NEAREST
        picture = np.asarray(
            Image.fromarray(picture).resize((width * settings.enlarge, height * settings.enlarge), how)
        )
    margin = settings.margin
    return np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="edge") if margin else picture


def models_of() -> dict[str, Path]:
    """The files that find lines ("det") and read them ("rec"). Raises QiError unless they lie inside the package."""
    missing = [name for name in ("rapidocr", "onnxruntime", "rapidfuzz") if find_spec(name) is None]
    if missing:
        raise QiError(
            f"reward ocr: {' and '.join(missing)} not installed; wanted for reading pictures; pip install 'qi[ocr]'"
        )
    spec = find_spec("rapidocr")
    assert spec is not None
    folder = Path(str(spec.origin)).parent / "models"
    models: dict[str, Path] = {}
    for part in ("det", "rec"):
        files = sorted(folder.glob(f"*_{part}_*.onnx"))
        if len(files) != 1:
            raise QiError(
                f"reward ocr: {folder} holds {len(files)} files *_{part}_*.onnx; wanted the one that rapidocr's wheel "
                "carries; pip install --force-reinstall rapidocr"
            )
        models[part] = files[0]
    return models
