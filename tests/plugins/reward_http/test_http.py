"""Reward ``http`` against real server processes that fail, hang, lie, are killed and come back."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
import torch
from attrs import evolve, frozen

from qi_core import Candidate, Place, QiError, Scores
from qi_core.calls import pause
from qi_core.reward_server import Judge, Served, application
from qi_core.reward_wire import Limits
from qi_core.scoring import Scorer
from qi_core.testing import check_component, check_reward
from qi_core.testing.rewards import some_candidates
from qi_plugins.reward_http.client import TOO_LARGE, Remote
from qi_plugins.reward_http.component import Http
from support.listening import listening
from support.reward_process import Brightness

SCRIPT = Path(__file__).parents[2] / "support" / "reward_process.py"


@frozen
class Process:
    """A running reward_process."""

    port: int
    log: Path
    popen: subprocess.Popen[bytes]

    def settings(self, fault: str, **others: object) -> Http:
        url = f"http://127.0.0.1:{self.port}/{fault}"
        return Http(url=url, reward="brightness", **{"retries": 3, "batch": 1, "wait": 30.0, **others})

    def judged(self) -> Counter[str]:
        """How often each candidate was."""
        return Counter(self.log.read_text().split())


@contextmanager
def running(port: int, log: Path) -> Iterator[Process]:
    with subprocess.Popen([sys.executable, str(SCRIPT), str(port), str(log)]) as popen:
        try:
            yield Process(port, log, popen)
        finally:
            popen.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with running(free_port(), tmp_path_factory.mktemp("rewards") / "log") as process:
        yield process


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)


def named(prefix: str, count: int) -> list[Candidate]:
    return [evolve(each, key=f"{prefix}-{number}") for number, each in enumerate(some_candidates(count))]


def brightness(candidates: Sequence[Candidate]) -> tuple[float, ...]:
    return tuple(float(candidate.image.float().mean() / 255) for candidate in candidates)


def scored(remote: Remote, candidates: Sequence[Candidate]) -> Scores:
    with Scorer({"remote": remote}) as scorer:
        return scorer.submit(candidates).result()["remote"]


def impatient(settings: Http, place: Place) -> Remote:
    """Built as it always is, but it tries again after a hundredth of a second."""
    return Remote(settings, settings.build(place).limits, backoff=0.01)


def test_the_contract(process: Process) -> None:
    check_component(Http)
    check_reward(process.settings("good", batch=4))


def test_both_encodings_carry_every_pixel_and_parts_come_along(process: Process, place: Place) -> None:
    candidates = some_candidates(5)
    for encoding in ("raw", "png"):
        scores = scored(process.settings("good", encoding=encoding, batch=2).build(place), candidates)
        assert scores.values == scores.parts["brightness"] == brightness(candidates)


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_pictures_of_megabytes_arrive(place: Place, tmp_path: Path, encoding: Literal["raw", "png"]) -> None:
    candidates = some_candidates(3, height=900, width=800)
    judge = Judge({"brightness": Served(reward=Brightness(tmp_path / "log"), groupwise=False)})
    with listening(application(judge)) as url:
        scores = scored(Http(url=url, reward="brightness", encoding=encoding).build(place), candidates)
    assert scores.values == brightness(candidates)


def test_a_server_that_fails_drops_and_hangs_one_call_in_twenty_each_loses_and_biases_nothing(
    process: Process, place: Place
) -> None:
    candidates = named("flaky", 40)
    scores = scored(impatient(process.settings("flaky", timeout=1.0), place), candidates)
    assert scores.values == brightness(candidates)
    assert not scores.failures
    times = process.judged()
    assert [times[candidate.key] for candidate in candidates] == [1] * 40, "tried again, but judged once"


def test_an_answer_that_takes_longer_than_the_patience_is_fetched_later_and_judged_once(
    process: Process, place: Place
) -> None:
    candidates = named("slow", 2)
    scores = scored(impatient(process.settings("slow", timeout=1.0, batch=2), place), candidates)
    assert scores.values == brightness(candidates)
    assert [process.judged()[candidate.key] for candidate in candidates] == [1, 1]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("count", "no answer to what was asked"),
        ("another", "no answer to what was asked"),
        ("garbage", "no answer to what was asked"),
        ("oversize", "an answer of too many bytes"),
    ],
)
def test_a_server_that_lies_masks_the_pictures_and_the_reason_is_counted(
    process: Process, place: Place, fault: str, reason: str
) -> None:
    scores = scored(impatient(process.settings(fault, retries=1, batch=2), place), some_candidates(3))
    assert scores == Scores(values=(None,) * 3, failures={reason: 3})


def test_no_number_is_masked_and_its_neighbour_is_kept(process: Process, place: Place) -> None:
    candidates = some_candidates(4)
    scores = scored(process.settings("nan", batch=2).build(place), candidates)
    first, second, third, fourth = brightness(candidates)
    assert (first, third) != (second, fourth)
    assert scores.values == (None, second, None, fourth)
    assert scores.failures == {"no finite number": 2}


def test_another_version_of_the_protocol_ends_the_run_at_once(process: Process, place: Place) -> None:
    remote = process.settings("schema", retries=50).build(place)
    with pytest.raises(QiError, match="schema 2; wanted 1"):
        scored(remote, some_candidates(2))


def test_a_server_that_is_killed_and_comes_back_loses_nothing(tmp_path: Path, place: Place) -> None:
    port, candidates = free_port(), named("killed", 6)
    with running(port, tmp_path / "first") as first:
        remote = impatient(first.settings("slow", in_flight=6, retries=20), place)
        with Scorer({"remote": remote}) as scorer:
            future = scorer.submit(candidates)
            wait_until(lambda: first.log.exists(), "judging began")
            first.popen.kill()
            first.popen.wait()
            with running(port, tmp_path / "second") as second:
                assert future.result(timeout=60)["remote"] == Scores(
                    values=brightness(candidates), parts={"brightness": brightness(candidates)}
                )
                assert second.judged() == Counter(candidate.key for candidate in candidates)


def test_a_server_that_is_gone_masks_what_it_should_have_judged_or_ends_the_run_where_it_is_required(
    tmp_path: Path, place: Place
) -> None:
    with running(free_port(), tmp_path / "log") as process:
        settings = process.settings("good", retries=2)
        remote, required = (impatient(each, place) for each in (settings, evolve(settings, required=True)))
    assert scored(remote, some_candidates(3)) == Scores(
        values=(None,) * 3, failures={"no connection, or a broken one": 3}
    )
    with pytest.raises(QiError, match="failed 3 times, at last with no connection"):
        scored(required, some_candidates(3))


def wait_until(true: object, what: str) -> None:
    for _ in range(600):
        if true():  # type: ignore[operator]
            return
        time.sleep(0.05)
    raise AssertionError(f"never: {what}")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"reward": "brightnes"}, "serves no 'brightnes'; it has brightness"),
        ({"groupwise": True}, "says groupwise = false"),
        ({"token_env": "QI_NO_SUCH_TOKEN"}, "QI_NO_SUCH_TOKEN: holds nothing"),
        ({"token_file": "/nowhere/token"}, "/nowhere/token: no token can be read"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line_when_the_run_starts(
    process: Process, place: Place, change: dict[str, object], told: str
) -> None:
    with pytest.raises(QiError) as error:
        evolve(process.settings("good"), **change).build(place)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_nobody_there_is_told_after_the_wait(place: Place) -> None:
    settings = Http(url=f"http://127.0.0.1:{free_port()}", reward="ocr", wait=0.3)
    with pytest.raises(QiError, match=r"no connection.*'qi reward serve RECIPE'"):
        settings.build(place)


@pytest.mark.parametrize(
    "url", ["localhost:8471", "ftp://host", "http://", "http://me:secret@host", "http://h?token=x"]
)
def test_an_address_that_is_none_is_refused_when_the_recipe_is_read(url: str) -> None:
    with pytest.raises(ValueError, match="'url' is"):
        Http(url=url, reward="ocr")


def test_batches_keep_to_the_settings_and_to_the_servers_limits() -> None:
    candidates = some_candidates(6)  # 16x32, groups of two
    candidates[2] = evolve(candidates[2], image=torch.zeros(3, 100, 100, dtype=torch.uint8))
    by_settings = Remote(Http(url="http://localhost", reward="any", batch=4), Limits())
    assert by_settings.cut(candidates) == ([[0, 1, 2, 3], [4, 5]], [])
    by_limits = Remote(Http(url="http://localhost", reward="any"), Limits(pixels=600, total_pixels=1100))
    assert by_limits.cut(candidates) == ([[0, 1], [3, 4], [5]], [2])
    by_groups = Remote(Http(url="http://localhost", reward="any", batch=3, groupwise=True), Limits(pixels=600))
    mixed = [candidates[place] for place in (0, 4, 1, 2, 3, 5)]
    assert by_groups.cut(mixed) == ([[0, 2], [1, 5]], [3, 4]), "a group stays whole, and is masked whole"


def test_what_the_server_would_not_take_is_masked_and_counted(process: Process, place: Place) -> None:
    candidates = some_candidates(2)
    candidates[0] = evolve(candidates[0], image=torch.zeros(3, 101, 100, dtype=torch.uint8))
    scores = scored(process.settings("good").build(place), candidates)
    assert scores.values == (None, brightness(candidates)[1])
    assert scores.failures == {TOO_LARGE: 1}


def test_pauses_grow_stay_bounded_differ_by_request_and_are_the_same_in_every_run() -> None:
    assert pause("a", 1, 0.5) == pause("a", 1, 0.5) != pause("b", 1, 0.5)
    for turn in range(1, 12):
        longest = min(30.0, 0.5 * 2 ** (turn - 1))
        assert longest / 2 <= pause("a", turn, 0.5) < longest
