"""What docs/rewards.md shows is so: the messages are messages, the example is a reward."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import attrs

from qi_core import reward_wire as wire
from qi_core.calls import AGAIN
from qi_core.testing import check_reward
from qi_registry.kinds import KINDS
from qi_registry.registry import installed

TEXT = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_table_names_every_reward_that_is_shipped() -> None:
    table = TEXT.partition("| reward | what it looks at")[2].partition("\n\n")[0]
    named = set(re.findall(r"`([\w-]+)`", "\n".join(row.split("|")[1] for row in table.splitlines()[2:])))
    offers = installed().plugins.offers(KINDS["reward"].hook)
    own = {offer.name for offer in offers if offer.given.__module__.startswith("qi_plugins.")}
    assert named == own


def test_every_key_of_the_tables_is_one() -> None:
    for name, head in (("ocr", "| `detect`"), ("http", "| `url` | |"), ("vlm-judge", "| `url`, `model`")):
        table = (head + TEXT.partition(head)[2]).partition("\n\n")[0]
        told = set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines())))
        keys = {field.name for field in attrs.fields(installed().find(KINDS["reward"], name).component)}
        assert told <= keys
        assert keys - told <= {"timeout", "retries", "in_flight", "required", "token_env", "token_file"}, name


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
