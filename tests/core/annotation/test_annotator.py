"""The pass over pictures, against a real server that behaves well and badly."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from attrs import evolve
from PIL import Image

from qi_core.annotation.annotator import Asking, Progress, annotate
from qi_core.annotation.journal import Journal
from qi_core.annotation.pictures import Show
from qi_core.annotation.prompts import shipped
from qi_core.blob import Blob
from qi_core.calls import Endpoint
from qi_core.entries import Entry
from qi_core.errors import QiError
from support.seer import annotation, completion, question, reason, seer, shown

CAPTION = "A plain square of one even colour, seen from straight ahead in flat light, number {}."


@pytest.fixture
def pictures(tmp_path: Path) -> list[Entry]:
    """Twelve; the red of the n-th is 20 n."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (64, 48), (20 * number, 0, 0)).save(folder / f"{number:02}.png")
    paths = sorted(folder.iterdir())
    return [Entry(path.name, Blob(str(path)), f"raw {number}") for number, path in enumerate(paths)]


def number(body: dict[str, Any]) -> int:
    """Which picture a request shows."""
    return round(np.asarray(shown(body))[..., 0].mean() / 20)


def good(body: dict[str, Any]) -> str:
    return annotation(CAPTION.format(number(body)))


def asking(url: str, **settings: Any) -> Asking:
    endpoint = Endpoint(url=url, retries=settings.pop("retries", 2), in_flight=4, timeout=settings.pop("timeout", 5))
    return Asking(endpoint=endpoint, model="seer", prompts=shipped("en"), **settings)


def done(entries: Sequence[Entry], out: Path, told: Asking, anew: bool = False) -> Progress:
    journal = Journal(out, model=told.model, prompt=told.name, anew=anew)
    try:
        return annotate(entries, journal, told, lambda _: None)
    finally:
        journal.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_picture_becomes_a_line_that_the_source_images_reads(pictures: list[Entry], tmp_path: Path) -> None:
    with seer(good) as url:
        progress = done(pictures, tmp_path / "out" / "a.jsonl", asking(url))
    found = sorted(lines(tmp_path / "out" / "a.jsonl"), key=lambda line: str(line["image"]))
    assert [line["image"] for line in found] == [f"../photos/{number:02}.png" for number in range(12)]
    assert [line["caption"] for line in found] == [CAPTION.format(number) for number in range(12)]
    assert [line["raw"] for line in found] == [f"raw {number}" for number in range(12)]
    assert (found[0]["type"], found[0]["watermarks"], found[0]["abnormal"]) == ("photograph", [], False)
    assert (progress.kept, progress.calls, progress.asked, progress.said) == (12, 12, 1200, 240)


def test_a_picture_is_shown_upright_on_white_and_no_larger_than_asked(tmp_path: Path) -> None:
    image = Image.new("RGBA", (400, 100), (0, 0, 0, 0))
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "a.png", exif=exif)
    file, size = Show(side=100).jpeg(Entry("a", Blob(str(tmp_path / "a.png")), None))
    assert size == (tmp_path / "a.png").stat().st_size
    (tmp_path / "seen.jpg").write_bytes(file)
    with Image.open(tmp_path / "seen.jpg") as seen:
        assert seen.size == (50, 200)
        assert np.asarray(seen).min() > 250


def test_an_answer_that_wont_do_is_asked_for_again_with_the_reason_and_then_given_up(
    pictures: list[Entry], tmp_path: Path
) -> None:
    heard: list[str] = []

    def say(body: dict[str, Any]) -> str:
        if number(body) == 3:
            return "I'm sorry, I cannot help with that."
        if number(body) == 5 and (why := reason(body)) == "":
            return annotation("Red.")
        elif number(body) == 5:
            heard.append(why)
        return good(body)

    with seer(say) as url:
        progress = done(pictures, tmp_path / "a.jsonl", asking(url, asks=3))
    assert progress.kept == 11
    assert len(heard) == 1
    assert "the caption is too short" in heard[0]
    assert progress.refused == Counter({"a refusal": 3, "the caption is too short": 1})
    assert {line["image"]: line["asked"] for line in lines(tmp_path / "a.jsonl")}["photos/05.png"] == 2
    (failed,) = lines(tmp_path / "a.failed.jsonl")
    assert (failed["image"], failed["reason"]) == ("photos/03.png", "a refusal")


def test_a_server_that_fails_in_every_way_costs_nothing_but_time(pictures: list[Entry], tmp_path: Path) -> None:
    turns: Counter[int] = Counter()

    async def hangs() -> web.Response:
        await asyncio.sleep(30)
        raise AssertionError

    def say(body: dict[str, Any]) -> Any:
        turns[number(body)] += 1
        if turns[number(body)] > 1:
            return good(body)
        return {
            0: lambda: web.Response(status=429, headers={"Retry-After": "0.2"}),
            1: lambda: web.Response(status=500),
            2: lambda: web.Response(text='{"choices": [{"mess'),
            3: hangs,
            4: lambda: completion(good(body)[:40], finish="length"),
            5: lambda: web.Response(status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
            6: lambda: completion(""),
            7: lambda: good(body)[:-5],
        }.get(number(body), lambda: good(body))()

    with seer(say) as url:
        progress = done(pictures, tmp_path / "a.jsonl", asking(url, timeout=3))
    assert (progress.kept, progress.failed, progress.left) == (12, 0, 0)
    assert max(turns.values()) == 2
    assert len(lines(tmp_path / "a.jsonl")) == 12


def test_it_waits_as_long_as_the_server_says_and_calls_nothing_meanwhile(pictures: list[Entry], tmp_path: Path) -> None:
    calls: list[float] = []

    def say(body: dict[str, Any]) -> Any:
        calls.append(monotonic())
        return web.Response(status=429, headers={"Retry-After": "1"}) if len(calls) < 3 else good(body)

    with seer(say) as url:
        told = asking(url, retries=0)
        assert done(pictures[:4], tmp_path / "a.jsonl", evolve(told, endpoint=evolve(told.endpoint, in_flight=1))).kept
    first, second, third, *_ = calls
    assert min(second - first, third - second) >= 1, "and that is no failure: nothing is tried again here"


def test_a_server_that_wants_to_be_left_alone_for_years_is_given_up(
    pictures: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qi_core.calls.LONGEST_WAIT", 0.1)
    with seer(lambda _: web.Response(status=503, headers={"Retry-After": "999999999"})) as url:
        assert done(pictures[:2], tmp_path / "a.jsonl", asking(url, retries=1)).left == 2


def test_calls_keep_to_the_limits_of_requests_and_tokens(pictures: list[Entry], tmp_path: Path) -> None:
    for name, limit in (("r", {"requests": 1200.0}), ("t", {"tokens": 120 * 1200.0})):
        calls: list[float] = []

        def say(body: dict[str, Any], calls: list[float] = calls) -> str:
            calls.append(monotonic())
            return good(body)

        with seer(say) as url:
            began = monotonic()
            done(pictures, tmp_path / f"{name}.jsonl", asking(url, show=Show(side=64), max_tokens=230, **limit))
        # At 1200 a minute they lie 0.05 s apart; a call of the test's server needs 120 tokens. The first may be late.
        assert calls[-1] - began > 0.8 * 11 * 0.05


def test_a_second_pass_asks_for_nothing_twice_and_again_asks_for_what_failed(
    pictures: list[Entry], tmp_path: Path
) -> None:
    calls: list[int] = []
    bad = {3}

    def say(body: dict[str, Any]) -> str:
        calls.append(number(body))
        return "No." if number(body) in bad else good(body)

    out = tmp_path / "a.jsonl"
    with seer(say) as url:
        done(pictures[:6], out, asking(url, asks=1))
        calls.clear()
        assert done([*pictures, *pictures], out, asking(url, asks=1)).before == 6
        assert sorted(calls) == [6, 7, 8, 9, 10, 11], "of those listed twice, each once"
        bad.clear()
        calls.clear()
        assert done(pictures, out, asking(url, asks=1), anew=True).kept == 1
        assert calls == [3]
        assert done(pictures, out, asking(url)).before == 12
    assert len({line["image"] for line in lines(out)}) == len(lines(out)) == 12


def test_a_line_cut_off_by_the_end_of_a_process_is_cut_away_and_asked_for_again(
    pictures: list[Entry], tmp_path: Path
) -> None:
    out = tmp_path / "a.jsonl"
    with seer(good) as url:
        done(pictures[:6], out, asking(url))
        whole = out.read_bytes()
        out.write_bytes(whole[:-7])
        assert done(pictures, out, asking(url)).kept == 7
    assert len({line["image"] for line in lines(out)}) == 12


def test_what_cannot_be_shown_is_listed_with_its_reason_and_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (4, 400)).save(tmp_path / "thin.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    entries = [
        Entry(name, Blob(str(tmp_path / name)), None) for name in ("text.png", "thin.png", "gone.png", "pipe.png")
    ]
    edit = Entry("edit", Blob(str(tmp_path / "a.png")), "make it red", references=(Blob(str(tmp_path / "a.png")),))
    with seer(good) as url:
        progress = done([*entries, edit], tmp_path / "a.jsonl", asking(url))
    assert (progress.kept, progress.failed, progress.calls) == (0, 5, 0)
    assert {line["image"]: line["reason"] for line in lines(tmp_path / "a.failed.jsonl")} == {
        "text.png": "not a picture",
        "thin.png": "too small to look at",
        "gone.png": "cannot be read",
        "pipe.png": "cannot be read",
        "a.png": "has references",
    }


def test_the_caption_that_is_there_may_be_fused_into_another(pictures: list[Entry], tmp_path: Path) -> None:
    def say(body: dict[str, Any]) -> Any:
        known = f"raw {number(body)}\n" in question(body)
        if known and number(body) == 2:
            return "No."
        if known and number(body) == 3:
            return web.Response(status=400, text="prompt too long")
        return annotation(CAPTION.format(number(body)) + (" It is raw." if known else ""))

    bare = evolve(pictures[1], caption=None)
    with seer(say) as url:
        progress = done([pictures[0], bare, *pictures[2:4]], tmp_path / "a.jsonl", asking(url, fuse=True))
    first, second, third, fourth = sorted(lines(tmp_path / "a.jsonl"), key=lambda line: str(line["image"]))
    assert (first["caption"], first["fused"]) == (CAPTION.format(0), CAPTION.format(0) + " It is raw.")
    assert not {"fused", "raw"} & second.keys()
    assert not [line for line in (third, fourth) if "fused" in line], "the annotation is kept without what failed"
    assert (third["raw"], fourth["raw"]) == ("raw 2", "raw 3")
    assert (progress.kept, progress.unfused) == (4, 2)


def test_a_server_that_is_gone_ends_it_and_what_was_not_answered_is_not_given_up(
    pictures: list[Entry], tmp_path: Path
) -> None:
    out = tmp_path / "a.jsonl"
    calls: list[int] = []

    def say(body: dict[str, Any]) -> Any:
        calls.append(1)
        return good(body) if len(calls) <= 3 else web.Response(status=500)

    told = r"4 pictures in a row.*asked 1 times, at last status 500.*same command"
    with seer(say) as url, pytest.raises(QiError, match=told):
        done(pictures, out, asking(url, retries=0))
    with seer(good) as url:
        assert done(pictures, out, asking(url)).before == 3
    assert len(lines(out)) == 12
    assert lines(tmp_path / "a.failed.jsonl") == []


def test_a_picture_that_the_server_will_not_take_is_listed_but_not_all_of_them(
    pictures: list[Entry], tmp_path: Path
) -> None:
    def say(body: dict[str, Any]) -> Any:
        return web.Response(status=400, text="too many pixels") if number(body) == 3 else good(body)

    with seer(say) as url:
        assert done(pictures, tmp_path / "a.jsonl", asking(url)).kept == 11
    (failed,) = lines(tmp_path / "a.failed.jsonl")
    assert failed["reason"] == "refused by the server: status 400"
    assert "too many pixels" in failed["detail"]
    many = [evolve(pictures[0], image=Blob(str(tmp_path / f"{n}.png"))) for n in range(40)]
    for entry in many:
        os.link(pictures[0].image.path, entry.image.path)
    with (
        seer(lambda _: web.Response(status=400, text="no max_tokens here")) as url,
        pytest.raises(QiError, match=r"takes none of the first \d+ pictures.*no max_tokens here"),
    ):
        done(many, tmp_path / "b.jsonl", asking(url))


def test_annotations_that_answer_other_questions_do_not_come_into_one_file(
    pictures: list[Entry], tmp_path: Path
) -> None:
    out = tmp_path / "a.jsonl"
    with seer(good) as url:
        done(pictures[:2], out, asking(url))
        with pytest.raises(QiError, match="holds annotations by another prompt"):
            done(pictures, out, asking(url, fuse=True))
        other = tmp_path / "b.failed.jsonl"
        other.write_text(json.dumps({"image": "photos/00.png", "reason": "no", "model": "blind", "prompt": "x"}) + "\n")
        assert done(pictures[:1], tmp_path / "b.jsonl", asking(url)).kept == 1, "what another model failed at is asked"
        journal = Journal(out, model="seer", prompt=asking(url).name)
        with pytest.raises(QiError, match="another process is writing to it"):
            done(pictures, out, asking(url))
        journal.close()
        out.write_text("no line\n")
        with pytest.raises(QiError, match="line 1: no JSON object"):
            done(pictures, out, asking(url))
