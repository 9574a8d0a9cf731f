"""A run with a curriculum: stages come at their steps, resumes go on in them, live changes of the data are replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qi_core.errors import QiError
from qi_core.live import Channel
from qi_registry.assemble import assemble
from qi_registry.runs import read_run
from support.small_run import RECIPE, here, losses, qi, steps, write_recipe

HEAD, _, REST = RECIPE.partition("[source]")
SOURCE = """\
[source]
name = "mixture"
[[source.parts]]
name = "real"
source = { name = "rendered-text", height = 16, width = 32, lengths = [1, 2] }
[[source.parts]]
name = "drawn"
weight = 0
source = { name = "rendered-text", height = 16, width = 32, lengths = [1, 2], foreground = ["red"] }
"""
STAGES = """\
[[data.filters]]
name = "luma"
least = 0.005
[curriculum]
name = "stages"
[[curriculum.stages]]
name = "plain"
steps = 12
[[curriculum.stages]]
name = "both"
steps = 12
transition = 8
mixture = { real = 1, drawn = 3 }
lr = 0.5
shift = 3.0
set = ["source.parts.real.source.width=48", "data.filters.luma.least=0.013"]
[[curriculum.stages]]
name = "large"
tokens = 100
"""
TEXT = HEAD + SOURCE + REST.split("lengths = [1, 2]\n", 1)[1] + STAGES


def shares(record: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in record["parts"].items() if key == "stage" or key.startswith("share")}


def test_stages_come_at_their_steps_and_a_resume_anywhere_goes_on_in_them(tmp_path: Path) -> None:
    recipe, folder, broken = write_recipe(tmp_path, TEXT), tmp_path / "run", tmp_path / "broken"
    here("run", recipe, "--folder", folder, "--set", "train.steps=30")
    found: dict[int, Any] = {int(str(record["step"])): record for record in steps(folder)}
    assert shares(found[12]) == {"stage": 0, "share/real": 1, "share/drawn": 0}
    assert shares(found[17]) == {"stage": 1, "share/real": 0.625, "share/drawn": 0.375}
    assert shares(found[25]) == {"stage": 2, "share/real": 0.25, "share/drawn": 0.75}
    rate = {step: record["lr"] for step, record in found.items()}
    assert (rate[12], rate[17], rate[21]) == (1e-3, 0.75e-3, 0.5e-3), "the factor moves with the transition"
    assert {found[step]["samples"] for step in range(1, 25)} == {4}
    assert found[26]["samples"] > 8, "so many as have 100 tokens"
    told = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    begun = [(record["step"], record["text"]) for record in told if record["event"] == "notice"]
    assert [step for step, _ in begun] == [0, 12, 24]
    assert begun[1][1] == ("stage 'both' begins; source.parts.real.source.width=48; data.filters.luma.least = 0.005"), (
        "what takes effect with it; a threshold begins from where it was"
    )

    for stop in (5, 17, 24):
        here("run", recipe, "--folder", broken, "--set", f"train.steps={stop}")
    here("run", recipe, "--folder", broken, "--set", "train.steps=30")
    assert losses(broken) == losses(folder)


def test_a_stage_without_data_is_told_before_the_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    part = f"source.parts.more={{ source = {{ name = 'images', path = '{tmp_path / 'empty'}' }} }}"
    text = TEXT.replace('"source.parts.real.source.width=48"', json.dumps(part))
    here("run", write_recipe(tmp_path, text), "--folder", tmp_path / "run", code=2)
    assert "curriculum: stage 'both', which begins at step 12: " in capsys.readouterr().err


SETTINGS = {
    6: "data.mixture.drawn=0.3",
    9: "data.filters.luma.least=0.01",
    14: "source.parts.extra={ weight = 0.5, source = { name = 'rendered-text', width = 64, lengths = [1, 3] } }",
    16: "data.mixture.nobody=3",
    17: "data.filters.aspect={ most = 8 }",
    20: "curriculum=next",
    22: "data.filters.luma.least=0.9",
    25: "source.parts.real.source.width=40",
    28: "curriculum.stages.both.mixture.drawn=0.5",
    30: "train.batch=8",
    33: "data.mixture.extra=0.5",
}
"""By hand, in any stage: weights, a threshold, a filter, a source, a resolution, the next stage, the plan itself; and
some that make no sense."""
REFUSED = {
    "data.mixture.nobody=3": "the source has no part of that name (known: real, drawn, extra)",
    "data.filters.luma.least=0.9": "1000 samples in a row could not be used",
    "train.batch=8": "can't be changed while a run goes on",
}


@pytest.mark.slow
@pytest.mark.parametrize("fence", ["drop", "drain"])
def test_changes_of_the_data_are_replayed_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fence: str
) -> None:
    text = TEXT.replace("steps = 12\n[[", "steps = 1000\n[[", 1) + f'[data]\nfence = "{fence}"\n'
    recipe, folder, broken = write_recipe(tmp_path, text), tmp_path / "run", tmp_path / "broken"
    asked, waiting = dict(SETTINGS), Channel.waiting

    def ask(channel: Channel) -> bool:
        """Once a step: what somebody would ask for then."""
        done = max((int(str(record["step"])) for record in steps(folder)), default=0)
        if setting := asked.pop(done, None):
            (channel.folder / f"{done:03}.set").write_text(setting)
        return waiting(channel)

    with monkeypatch.context() as patch:
        patch.setattr(Channel, "waiting", ask)
        here("run", recipe, "--folder", folder, "--set", "train.steps=56")
    replies = [json.loads(path.read_text()) for path in sorted((folder / "control").glob("*.reply"))]
    answers = dict(zip(SETTINGS.values(), replies, strict=True))
    assert {setting for setting, answer in answers.items() if answer["step"] is None} == set(REFUSED)
    for setting, why in REFUSED.items():
        assert why in answers[setting]["message"]
    late = [answer["step"] - step for step, answer in zip(SETTINGS, replies, strict=True) if answer["step"] is not None]
    assert max(late) <= 3
    assert (max(late) > 0) == (fence == "drain"), "what was made ahead is trained on first, or made again"

    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    cut = next(event for event in events if event["setting"].startswith("curriculum.stages"))
    assert cut["setting"] == f'curriculum.stages."plain".steps = {cut["step"]}', "what 'next' came to"
    found: dict[int, Any] = {int(str(record["step"])): record for record in steps(folder)}
    assert {record["parts"]["stage"] for record in found.values()} == {0, 1, 2}
    assert found[14]["parts"]["share/drawn"] == pytest.approx(0.3 / 1.3)
    assert found[56]["parts"]["share/extra"] > 0

    broken.mkdir()
    here("run", recipe, "--folder", broken, "--set", "train.steps=1")
    (broken / "events.jsonl").write_text((folder / "events.jsonl").read_text())
    for stop in (15, 27, 56):
        here("run", recipe, "--folder", broken, "--set", f"train.steps={stop}")
    assert losses(broken) == losses(folder)


@pytest.mark.slow
def test_producers_change_over_at_the_same_steps(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, TEXT)
    for engine in ("inline", "local"):
        qi("run", recipe, "--folder", tmp_path / engine, "--set", "train.steps=28", "--set", f"data.engine={engine}")
    assert losses(tmp_path / "local") == losses(tmp_path / "inline")


def test_a_recipe_whose_data_was_edited_goes_on_with_it(tmp_path: Path) -> None:
    """Section by section, since keys may depend on each other: a look-alike without groups is none."""
    text = TEXT.split("[curriculum]")[0]
    recipe, folder = write_recipe(tmp_path, text), tmp_path / "run"
    here("run", recipe, "--folder", folder, "--set", "train.steps=4")
    run = assemble(read_run(folder), folder)
    with pytest.raises(QiError, match=r"RenderedText can't go on from where the data stands, .* add it as a part"):
        run.change(run, "source={ name = 'rendered-text', width = 48 }")
    run.close_sources()
    (folder / "events.jsonl").write_text('{"step": 2, "setting": "data.mixture.drawn=0.5"}\n')
    edited = text.replace("weight = 0", "weight = 3").replace(
        '["red"]', '["red"], confused = 0.1, look_alikes = ["OQ"]'
    )
    recipe.write_text(edited.replace("least = 0.005", "least = 0.001"))
    here("run", recipe, "--folder", folder, "--set", "train.steps=6")
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [(event["step"], event["setting"].partition(" = ")[0]) for event in events[1:]] == [
        (4, "source"),
        (4, "data"),
    ]
    resumed = losses(folder)
    here("run", recipe, "--folder", folder, "--set", "train.steps=7")
    assert len((folder / "events.jsonl").read_text().splitlines()) == 3, "once"
    assert resumed.items() <= losses(folder).items()
