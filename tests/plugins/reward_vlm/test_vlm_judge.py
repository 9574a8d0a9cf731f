"""Reward ``vlm-judge`` against a real server that speaks OpenAI's chat completions."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aiohttp import web
from attrs import evolve
from PIL import Image

from qi_core import Candidate, Place, QiError, Scores
from qi_core.scoring import Scorer
from qi_core.testing import check_component, check_reward
from qi_core.testing.rewards import some_candidates
from qi_plugins.reward_vlm.component import VlmJudge
from qi_plugins.reward_vlm.judge import Judge
from support.listening import listening

Answer = Callable[[dict[str, Any]], Any]


@contextmanager
def model(answer: Answer, token: str = "") -> Iterator[str]:
    """A server whose one model "seer" answers so: a text, or a whole response."""

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "seer", "object": "model"}]})

    async def complete(request: web.Request) -> web.Response:
        if token and request.headers.get("Authorization") != f"Bearer {token}":
            return web.json_response({"error": {"message": "no"}}, status=401)
        said = answer(await request.json())
        if isinstance(said, web.Response):
            return said
        message = {"role": "assistant", "content": said}
        return web.json_response(
            {
                "id": "1",
                "object": "chat.completion",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            }
        )

    app = web.Application(client_max_size=2**24)
    app.add_routes([web.get("/v1/models", models), web.post("/v1/chat/completions", complete)])
    with listening(app) as url:
        yield f"{url}/v1"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=tmp_path)


def pictures(body: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    """Of a request, each (H, W, 3)."""
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return [np.asarray(Image.open(BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]


def question(body: dict[str, Any]) -> str:
    (text,) = (part["text"] for part in body["messages"][0]["content"] if part["type"] == "text")
    return str(text)


def scored(settings: VlmJudge, candidates: Sequence[Candidate], place: Place) -> Scores:
    """As it always is, but tried again after a hundredth of a second."""
    settings.build(place)
    with Scorer({"judge": Judge(settings, backoff=0.01)}) as scorer:
        return scorer.submit(candidates).result(timeout=60)["judge"]


def said(text: Any, place: Place, **settings: Any) -> Scores:
    """What comes of one answer."""
    with model(lambda _: text) as url:
        return scored(VlmJudge(url=url, model="seer", retries=1, **settings), some_candidates(1), place)


def test_the_contract() -> None:
    check_component(VlmJudge)
    with model(lambda body: f"Fine. Score: {1 + 4 * pictures(body)[0].mean() / 255:.4f}") as url:
        check_reward(VlmJudge(url=url, model="seer"))


def test_it_asks_the_same_way_every_time_and_shows_every_pixel(place: Place) -> None:
    asked: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> str:
        asked.append(body)
        return "Score: 4"

    candidate = evolve(
        some_candidates(1)[0], prompt='a {text} "CAT" {prompt}', references=(torch.zeros(3, 2, 4, dtype=torch.uint8),)
    )
    with model(answer) as url:
        settings = VlmJudge(url=url, model="seer", seed=5, question="{prompt} | {text} | {other}")
        assert scored(settings, [candidate], place).values == (0.75,)
        scored(evolve(settings, references=False), [candidate], place)
    first, second = asked
    assert (first["model"], first["temperature"], first["seed"], first["max_tokens"]) == ("seer", 0, 5, 512)
    assert question(first) == 'a {text} "CAT" {prompt} | CAT | {other}', "what a prompt holds is never filled in"
    reference, image = pictures(first)
    assert reference.shape == (2, 4, 3)
    assert (image == candidate.image.permute(1, 2, 0).numpy()).all()
    assert len(pictures(second)) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Score: 1", 0.0),
        ("It shows all.\n**Score: 5**", 1.0),
        ("score = 2.5 of 5", 0.375),
        ("First I thought Score: 1. Final Score: 4/5", 0.75),
        ("Score: ** 3 **", 0.5),
    ],
)
def test_the_last_score_of_an_answer_counts_within_the_range(place: Place, text: str, value: float) -> None:
    scores = said(text, place)
    assert scores.values == (value,)
    assert scores.parts["score"] == (1 + 4 * value,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Lovely!", "an answer without a score"),
        ("", "an answer without a score"),
        (None, "an answer without a score"),
        ("Score: 6", "a score beyond the range"),
        ("Score: -3", "a score beyond the range"),
        (web.Response(text="<html>"), "an answer that is none"),
        (web.Response(text='{"choices": []}'), "an answer that is none"),
        (web.Response(text='{"odd": ' + "[" * 5000), "an answer that is none"),
    ],
)
def test_an_answer_without_a_verdict_masks_the_picture_and_is_counted(place: Place, text: Any, reason: str) -> None:
    def answer(_: dict[str, Any]) -> Any:
        return web.Response(text=text.text) if isinstance(text, web.Response) else text

    with model(answer) as url:
        scores = scored(VlmJudge(url=url, model="seer", retries=1), some_candidates(2), place)
    assert scores == Scores(values=(None, None), parts={"score": (None, None)}, failures={reason: 2})


def test_an_answer_that_was_cut_off_is_no_verdict(place: Place) -> None:
    choice = {"message": {"content": "Score: 5"}, "finish_reason": "length"}
    scores = said(web.json_response({"choices": [choice]}), place)
    assert scores.failures == {"an answer that was cut off": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"quality": 7}', 0.7),
        ('```json\n{"why": "a {brace}", "quality": 10}\n```', 1.0),
        ('{"quality": 1} no: {"quality": 2}', 0.2),
        ('{"quality": "7"}', None),
        ('{"quality": true}', None),
        ('{"quality": NaN}', None),
        ('{"quality": 1' + "0" * 400 + "}", None),
        ("quality: 7", None),
        ("{" * 5000, None),
    ],
)
def test_the_score_may_stand_in_a_json_object(place: Place, text: str, value: float | None) -> None:
    assert said(text, place, key="quality", lowest=0.0, highest=10.0).values == (value,)


def test_less_can_be_better(place: Place) -> None:
    assert said("Score: 2", place, lowest=5.0, highest=1.0).values == (0.75,)


def test_the_prompts_quotation_is_the_text_where_no_other_is_told(place: Place) -> None:
    """As it is for the rewards that read."""
    asked: list[str] = []

    def answer(body: dict[str, Any]) -> str:
        asked.append(question(body))
        return "Score: 5"

    quotes, plain = (evolve(some_candidates(1)[0], text="", prompt=prompt) for prompt in ('a "DOG"', "a dog"))
    with model(answer) as url:
        scores = scored(VlmJudge(url=url, model="seer", question="Does it say {text}?"), [quotes, plain], place)
    assert asked == ["Does it say DOG?"]
    assert scores.values == (1.0, None)
    assert scores.failures == {"no text asked for": 1}


def test_a_server_that_fails_now_and_then_loses_nothing(place: Place) -> None:
    calls: list[int] = []

    def answer(body: dict[str, Any]) -> Any:
        calls.append(1)
        if len(calls) % 5 == 2:
            return web.Response(status=503)
        return f"Score: {1 + 4 * pictures(body)[0].mean() / 255:.6f}"

    candidates = some_candidates(20)
    with model(answer) as url:
        scores = scored(VlmJudge(url=url, model="seer"), candidates, place)
    wanted = [float(candidate.image.float().mean() / 255) for candidate in candidates]
    assert scores.values == pytest.approx(wanted, abs=1e-6)
    assert not scores.failures
    assert len(calls) > 20


def test_a_picture_that_the_model_cannot_take_is_masked_and_the_others_are_not(place: Place) -> None:
    """As a server of models answers one prompt too long: it must not end the run, nor be asked again and again."""
    asked: list[str] = []

    def answer(body: dict[str, Any]) -> Any:
        asked.append(question(body))
        if len(asked) == 2:
            return web.json_response({"error": {"message": "too long"}}, status=400)
        return "Score: 4"

    with model(answer) as url:
        scores = scored(VlmJudge(url=url, model="seer", in_flight=1), some_candidates()[:3], place)
    assert sum(value is None for value in scores.values) == 1
    assert scores.failures == {"status 400": 1}
    assert len(asked) == 3


def test_a_server_that_is_gone_masks_or_ends_the_run_where_it_is_required(place: Place) -> None:
    with model(lambda _: web.Response(status=500)) as url:
        settings = VlmJudge(url=url, model="seer", retries=2)
        assert scored(settings, some_candidates(2), place).failures == {"status 500": 2}
        with pytest.raises(QiError, match="failed 3 times, at last with status 500"):
            scored(evolve(settings, required=True), some_candidates(2), place)


def test_the_token_is_sent_and_a_wrong_one_ends_the_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with model(lambda _: "Score: 5", token="secret") as url:
        settings = VlmJudge(url=url, model="seer", token_env="QI_TEST_TOKEN")
        monkeypatch.setenv("QI_TEST_TOKEN", "secret\n")
        assert scored(settings, some_candidates(1), place).values == (1.0,)
        monkeypatch.setenv("QI_TEST_TOKEN", "other")
        with pytest.raises(QiError, match=r"answers 401.*token_env or token_file"):
            scored(settings, some_candidates(1), place)


def test_a_model_that_is_not_there_is_told_when_the_run_starts(place: Place) -> None:
    with model(lambda _: "") as url, pytest.raises(QiError, match="has no model 'sear'; it has seer"):
        VlmJudge(url=url, model="sear").build(place)
    with pytest.raises(QiError, match="wanted an OpenAI-compatible server"):
        VlmJudge(url=url, model="seer", retries=0).build(place)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"pattern": "Score: (\\d"}, "no regular expression"),
        ({"pattern": "(Score): (\\d)"}, "2 groups; wanted one"),
        ({"question": "How good is it?"}, "wanted {prompt} or {text}"),
        ({"lowest": 5.0}, "the ends of a range"),
        ({"lowest": float("nan")}, "the ends of a range"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told.replace("{", r"\{")):
        VlmJudge(url="http://localhost:8000/v1", model="seer", **settings)
