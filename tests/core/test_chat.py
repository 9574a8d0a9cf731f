"""What is read of a model's answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qi_core.calls import BadAnswer, seconds_of
from qi_core.chat import Reply, reply


def answer(content: Any, **others: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}], **others}).encode()


def test_it_is_the_text_and_what_it_cost() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "details": {"odd": 1}}
    assert reply(answer("a", usage=usage)) == Reply(text="a", asked=7, said=3)
    assert reply(answer(None, usage=None)) == Reply(text="")
    assert reply(answer("a", usage={"prompt_tokens": None, "completion_tokens": -4})) == Reply(text="a")


def test_what_a_model_thinks_aloud_before_it_answers_is_no_part_of_it() -> None:
    assert reply(answer('\n<think>a {"b": 1}\n</think>\n\nc')).text == "\n\nc"
    assert reply(answer("c <think>d</think>")).text == "c <think>d</think>"


@pytest.mark.parametrize("content", [b"", b"<html>", b'{"choices": []}', b'{"choices": [{}]}', b'{"a": ' + b"[" * 5000])
def test_an_answer_that_is_none_is_told(content: bytes) -> None:
    with pytest.raises(BadAnswer, match="an answer that is none"):
        reply(content)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), (" 1.5 ", 1.5), ("", 0.0), ("soon", 0.0), ("-3", 0.0), ("9" * 40, 0.0), ("inf", 0.0)],
)
def test_how_long_a_server_wants_to_be_left_alone(header: str, seconds: float) -> None:
    assert seconds_of(header) == seconds
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert seconds_of("Fri, 31 Dec 2100 23:59:59 GMT") > 10**9
