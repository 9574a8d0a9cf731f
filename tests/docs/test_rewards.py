"""What docs/rewards.md shows is so: the messages are messages, the example is a reward."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

from qi_core import reward_wire as wire
from qi_core.calls import AGAIN
from qi_core.testing import check_reward

TEXT = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_messages_are_messages() -> None:
    offers, request, answer = (text.encode() for text in blocks("json"))
    assert wire.decode(offers, wire.JSON, wire.Offers).limits == wire.Limits()
    asked = wire.decode(request, wire.JSON, wire.Request)
    (candidate,) = wire.candidates_of(asked, wire.Limits())
    assert candidate.image.tolist() == [[[0, 255]]] * 3
    assert wire.scores_of(wire.decode(answer, wire.JSON, wire.Answer), asked).values == (0.75,)


def test_the_example_is_a_reward() -> None:
    (code,) = blocks("python")
    module = ModuleType("qi_redness")
    exec(code, module.__dict__)
    check_reward(module.qi_rewards()["redness"]())


def test_statuses_that_are_tried_again_are_the_clients() -> None:
    assert {int(status) for status in re.search(r"\(and ([\d, \n]+)\)", TEXT)[1].split(",")} == AGAIN  # type: ignore[index]
