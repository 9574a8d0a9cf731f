"""What everybody needs who reads a model through transformers (the extra ``qi[qwen]``; nothing else imports this)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging

from qi_core.errors import QiError


@contextmanager
def in_one_line(where: str, wanted: str, advice: str) -> Generator[None]:
    """What transformers raises for a bad file, as one line."""
    try:
        yield
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:300]
        raise QiError(f"{where}: {reason}; wanted {wanted}; {advice}") from error


@contextmanager
def no_progress_bar() -> Generator[None]:
    """The run has its own progress line."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
