"""The tracker "tensorboard": what TensorBoard itself reads back."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from qi_core import Change, Ended, Evaluated, Picture, Place, QiError, Saved, Start, StepDone, Tracker
from qi_plugins.tracker_tensorboard import qi_trackers
from qi_plugins.tracker_tensorboard.component import TensorBoard

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # tensorboard's own, at import
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def place(folder: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=folder)


def started(folder: Path, step: int = 0, every: int = 1) -> Tracker:
    board = TensorBoard(every=every, flush_seconds=0).build(place(folder))
    board.tell(Start(folder=folder, step=step, steps=9, parameters=7))
    return board


def done(step: int, loss: float = 0.5) -> StepDone:
    return StepDone(
        step=step,
        loss=loss,
        lr=0.25,
        grad_norm=2.0,
        samples=8,
        seconds={"data": 1.0, "forward": 3.0},
        parts={"loss t<0.5": 0.125},
    )


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in read(folder).Scalars(tag)]


def test_the_hook_gives_it() -> None:
    assert qi_trackers() == {"tensorboard": TensorBoard}


def test_a_step_gives_a_point_on_every_curve(tmp_path: Path) -> None:
    started(tmp_path).tell(done(1))
    points = {tag: curve(tmp_path, tag) for tag in read(tmp_path).Tags()["scalars"]}
    assert points == {
        "train/loss": [(1, 0.5)],
        "train/lr": [(1, 0.25)],
        "train/grad_norm": [(1, 2.0)],
        "train/images_per_second": [(1, 2.0)],
        "parts/loss t<0.5": [(1, 0.125)],
        "time/data": [(1, 0.25)],
        "time/forward": [(1, 0.75)],
    }


def test_the_loss_is_the_mean_over_the_steps_since_the_last_point(tmp_path: Path) -> None:
    board = started(tmp_path, every=2)
    for step, loss in enumerate([1.0, 2.0, 5.0, 7.0, 9.0], 1):
        board.tell(done(step, loss))
    assert curve(tmp_path, "train/loss") == [(2, 1.5), (4, 6.0)]


def test_after_a_resume_the_lost_steps_are_not_shown(tmp_path: Path) -> None:
    first = started(tmp_path)
    for step in (1, 2, 3, 4):
        first.tell(done(step, 0.5))
    second = started(tmp_path, step=2)  # in the same second as the first, too
    second.tell(done(3, 8.0))
    assert curve(tmp_path, "train/loss") == [(1, 0.5), (2, 0.5), (3, 8.0)]


def test_an_evaluation_gives_its_figures_and_its_grid(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4), (255, 0, 0)).save(tmp_path / "grid.png")
    picture = Picture(image=torch.zeros(3, 2, 2), caption="a red square")
    started(tmp_path).tell(
        Evaluated(step=5, name="glyphs", scalars={"exact": 0.5}, pictures=(picture,), path=tmp_path / "grid.png")
    )
    assert curve(tmp_path, "glyphs/exact") == [(5, 0.5)]
    board = read(tmp_path)
    (shown,) = board.Images("glyphs/pictures")
    assert (shown.step, shown.width, shown.height) == (5, 6, 4)
    image = Image.open(io.BytesIO(shown.encoded_image_string))
    assert (image.size, image.getpixel((0, 0))) == ((6, 4), (255, 0, 0))
    assert board.SummaryMetadata("glyphs/pictures").summary_description == "a red square"


def test_pictures_without_a_grid_are_shown_one_by_one(tmp_path: Path) -> None:
    pictures = tuple(
        Picture(image=torch.full((3, 2, 3), value), caption=f"grey {value}") for value in (-1.0, 0.0, 1.0, 9.0)
    )
    started(tmp_path).tell(Evaluated(step=5, name="preview", pictures=pictures))
    board = read(tmp_path)
    values = []
    for number in range(4):
        (shown,) = board.Images(f"preview/{number}")
        image = Image.open(io.BytesIO(shown.encoded_image_string))
        assert image.size == (3, 2)
        values.append(image.getpixel((0, 0)))
    assert values == [(v, v, v) for v in (0, 128, 255, 255)]
    assert board.SummaryMetadata("preview/1").summary_description == "grey 0.0"


def test_changes_are_shown_and_the_rest_does_no_harm(tmp_path: Path) -> None:
    board = started(tmp_path)
    board.tell(Change(step=3, setting='sampler = "heun"'))
    board.tell(Saved(step=3, path=tmp_path, seconds=1.0))
    board.tell(Ended(step=3, reason="done", seconds=1.0))
    (text,) = read(tmp_path).Tensors("changes/text_summary")
    assert (text.step, text.tensor_proto.string_val[0]) == (3, b'sampler = "heun"')


def test_the_end_is_in_the_file_at_once(tmp_path: Path) -> None:
    board = TensorBoard(every=1, flush_seconds=3600).build(place(tmp_path))
    board.tell(Start(folder=tmp_path, step=0, steps=1, parameters=7))
    board.tell(done(1))
    assert "train/loss" not in read(tmp_path).Tags()["scalars"]
    board.tell(Ended(step=1, reason="done", seconds=1.0))
    assert curve(tmp_path, "train/loss") == [(1, 0.5)]


def test_a_full_disk_stops_the_run_with_a_word_and_does_not_hang_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    board = started(tmp_path)
    monkeypatch.setattr("tensorboardX.RecordWriter.flush", full)
    with pytest.raises(QiError, match=r"tensorboard: cannot be written \(No space left on device\); make room"):
        board.tell(done(1))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file stands in the way")
    with pytest.raises(QiError, match=r"tensorboard: cannot be opened"):
        TensorBoard().build(place(tmp_path))
