"""The tracker "tensorboard" at work.

Events are written in the loop's thread, a step's figures as one record. tensorboardX's SummaryWriter would hand each
figure to a thread by a queue of ten: on a full disk the thread dies, and the run waits for it for ever.
"""

from __future__ import annotations

import io
import os
import socket
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image
from tensorboardX import RecordWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.summary import text

from qi_core import Change, Ended, Evaluated, Notice, QiError, Saved, Start, StepDone
from qi_core.meter import Meter


class LiveTensorBoard:
    """See ``qi_core.tracker.Tracker``."""

    def __init__(self, folder: Path, every: int, flush_seconds: float) -> None:
        self._folder = folder
        self._every = every
        self._pause = flush_seconds
        self._next = 0.0
        self._meter = Meter()
        self._losses: list[float] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            self._records = RecordWriter(str(folder / name))
        except OSError as error:
            raise QiError(f"{folder}: cannot be opened ({error.strerror}); see to its permissions") from error
        weakref.finalize(self, self._records.close)

    def tell(self, event: Start | StepDone | Evaluated | Change | Notice | Saved | Ended) -> None:
        match event:
            case Start():
                self._write(Event(file_version="brain.Event:2"), 0)
                # What a stopped run had written after its last checkpoint is not shown any more.
                self._write(Event(session_log=SessionLog(status=SessionLog.START)), event.step + 1)
            case StepDone():
                self._step(event)
            case Evaluated():
                figures = _scalars(event.name, event.scalars)
                self._write(Event(summary=Summary(value=[*figures, *_pictures(event)])), event.step)
            case Change():
                self._write(Event(summary=text("changes", event.setting)), event.step)
            case Notice():
                self._write(Event(summary=text("notices", event.text)), event.step)
            case Saved():
                pass
            case Ended():
                self._next = 0.0
        self._flush()

    def _step(self, event: StepDone) -> None:
        self._meter.add(event)
        self._losses.append(event.loss)
        if event.step % self._every:
            return
        loss = sum(self._losses) / len(self._losses)
        self._losses.clear()
        values = [
            *_scalars("train", {"loss": loss, "lr": event.lr, "grad_norm": event.grad_norm}),
            *_scalars("train", {"images_per_second": self._meter.samples_per_second}),
            *_scalars("parts", event.parts),
            *_scalars("time", self._meter.shares),
        ]
        self._write(Event(summary=Summary(value=values)), event.step)

    def _write(self, event: Event, step: int) -> None:
        event.step = step
        event.wall_time = time.time()
        try:
            self._records.write(event.SerializeToString())
        except OSError as error:
            raise self._full(error) from error

    def _flush(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._pause
        try:
            self._records.flush()
        except OSError as error:
            raise self._full(error) from error

    def _full(self, error: OSError) -> QiError:
        return QiError(f"{self._folder}: cannot be written ({error.strerror}); make room, then resume")


def _scalars(group: str, figures: Mapping[str, float]) -> Iterator[Summary.Value]:
    for name, value in figures.items():
        yield Summary.Value(tag=f"{group}/{name}", simple_value=value)


def _pictures(event: Evaluated) -> Iterator[Summary.Value]:
    """The grid that the evaluation wrote; or, where there is none, its pictures one by one."""
    if event.path:
        with Image.open(event.path) as grid:
            yield _picture(f"{event.name}/pictures", grid, "\n\n".join(p.caption for p in event.pictures))
        return
    for number, picture in enumerate(event.pictures):
        values_HWC = ((picture.image.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
        yield _picture(f"{event.name}/{number}", Image.fromarray(values_HWC.cpu().numpy()), picture.caption)


def _picture(tag: str, image: Image.Image, caption: str) -> Summary.Value:
    png = io.BytesIO()
    image.convert("RGB").save(png, "PNG")
    return Summary.Value(
        tag=tag,
        image=Summary.Image(height=image.height, width=image.width, colorspace=3, encoded_image_string=png.getvalue()),
        metadata=SummaryMetadata(display_name=tag, summary_description=caption),
    )
