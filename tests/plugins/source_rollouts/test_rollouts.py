"""The source ``rollouts``: groups, masks, figures; drawn alike however it is cut, and resumed anywhere to the bit."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve, frozen
from torch import Tensor

from qi_core import Candidate, Guidance, OnPolicy, Place, QiError, Rollouts, Window, flow
from qi_core.place import Closing
from qi_core.reward import Weighted
from qi_core.stochastic import step_law
from qi_core.testing import check_component, fakes
from qi_core.testing.contract import same
from qi_plugins.source_rollouts.component import DrawnRollouts
from qi_plugins.source_rollouts.live import OnPolicySource, RolloutSource
from support.rollouts import Judge, Limping, Prompts, Ranking, Waiting, Wandering, brightness

BRIGHT = Weighted(name="bright", reward=Judge())
SMALL = DrawnRollouts(prompts=Prompts(), groups=3, group=4, sampler=Wandering(), rewards=(BRIGHT,))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=3, folder=tmp_path)


@pytest.fixture
def build(place: Place) -> Iterator[Callable[..., Any]]:
    """Live sources that follow an untrained model, closed at the end."""
    built: list[OnPolicySource[Any, Any]] = []

    def make(settings: Any = SMALL) -> Any:
        source = settings.build(place, 1)
        source.follow(fakes.models(fakes.network(place)))
        built.append(source)
        return source

    yield make
    for source in built:
        source.close()


def test_it_is_a_component_whose_source_follows_the_policy(build: Callable[..., RolloutSource]) -> None:
    check_component(DrawnRollouts)
    assert isinstance(build(), OnPolicy)
    assert isinstance(build(), Closing)


def test_a_rollout_is_groups_of_pictures_with_advantages(build: Callable[..., RolloutSource]) -> None:
    batch = build().draw(12)
    assert isinstance(batch, Rollouts)
    assert batch.sampler == SMALL.sampler
    groups = {item.group: [other for other in batch if other.group == item.group] for item in batch}
    assert [len(own) for own in groups.values()] == [4, 4, 4]
    for own in groups.values():
        rewards = torch.tensor([item.reward for item in own], dtype=torch.float64)
        wanted = (rewards - rewards.mean()) / (rewards.std(correction=0) + SMALL.eps)
        assert [item.advantage for item in own] == pytest.approx(wanted.tolist())
        assert len({item.prompt for item in own}) == 1
        assert all(item.rewards == {"bright": item.reward} for item in own)
    assert sum(item.advantage for item in batch) == pytest.approx(0, abs=1e-9)
    assert batch.figures["rollout/advantage"] == pytest.approx(0, abs=1e-9)
    assert batch.figures["rollout/reward"] == pytest.approx(sum(item.reward for item in batch) / 12)


def test_equal_prompts_are_groups_of_their_own(build: Callable[..., RolloutSource]) -> None:
    batch = build(evolve(SMALL, prompts=Prompts(words=("ab",)))).draw(12)
    assert {item.prompt for item in batch} == {"ab"}
    assert len({item.group for item in batch}) == 3


def test_steps_can_be_replayed(build: Callable[..., RolloutSource], place: Place) -> None:
    """Of all that was recorded: the law is that of the state, and the picture is where it ends."""
    batch, network = build(evolve(SMALL, sampler=Wandering(steps=4))).draw(12), fakes.network(place)
    for item in batch:
        assert len(item.steps) == 3, "the last step adds no noise (std 0), so it is not kept"
        for step in item.steps:
            x = item.latents.with_tokens(step.x)
            t, t_next = torch.tensor([step.t]), torch.tensor([step.t_next])
            v = network.velocity(x, t, item.condition).tokens
            mean, std = step_law(SMALL.sampler, x, v, t, t_next, torch.ones(1, dtype=torch.bool))  # type: ignore[arg-type]
            torch.testing.assert_close(mean, step.mean)
            assert std.item() == step.std
            log_prob = flow.log_prob(x.with_tokens(step.x_next), step.mean, std)
            assert log_prob.item() == pytest.approx(step.log_prob, rel=1e-6)
        for one, after in zip(item.steps, item.steps[1:], strict=False):
            assert after.x is one.x_next, "a state between two steps is kept once"
        assert item.steps[0].t == 0, "noise"
        last = item.steps[-1]
        x = item.latents.with_tokens(last.x_next)
        v = network.velocity(x, torch.tensor([last.t_next]), item.condition).tokens
        torch.testing.assert_close(item.latents.tokens, x.tokens + (1 - last.t_next) * v)
        assert all(step.x.dtype == step.x_next.dtype == step.mean.dtype == torch.float32 for step in item.steps)


def test_steps_apart_begin_where_the_picture_was(build: Callable[..., RolloutSource], place: Place) -> None:
    """Between them it followed the ordinary equation, of which nothing is kept."""
    batch, network = build(evolve(SMALL, sampler=Limping(steps=5))).draw(12), fakes.network(place)
    for item in batch:
        one, after = item.steps
        x, dt = item.latents.with_tokens(one.x_next), after.t - one.t_next
        v = network.velocity(x, torch.tensor([one.t_next]), item.condition).tokens
        torch.testing.assert_close(after.x, one.x_next + dt * v)


def test_a_group_shares_its_window(build: Callable[..., RolloutSource]) -> None:
    sampler = Wandering(steps=9, window=Window(length=2, moves="random", latest=6))
    source = build(evolve(SMALL, groups=6, sampler=sampler))
    batch = source.draw(24)
    windows = {item.group: {tuple(step.t for step in other.steps) for other in batch if other.group == item.group}
               for item in batch}  # fmt: skip
    assert all(len(own) == 1 for own in windows.values())
    assert len(set().union(*windows.values())) > 1, "other groups have other windows"
    assert all(len(item.steps) == 2 for item in batch)


def test_a_sampler_without_noise_has_no_steps(build: Callable[..., RolloutSource]) -> None:
    batch = build(evolve(SMALL, sampler=fakes.ThreeSteps())).draw(12)
    assert batch.sampler is None
    assert all(item.steps == () for item in batch)


def test_shared_noise_is_a_groups_own(build: Callable[..., RolloutSource]) -> None:
    def first_states(shared: bool) -> list[bytes]:
        batch = build(evolve(SMALL, shared_noise=shared)).draw(12)
        return [item.steps[0].x.numpy().tobytes() for item in batch]

    assert len(set(first_states(shared=True))) == 3
    assert len(set(first_states(shared=False))) == 12


def test_guidance_is_that_of_the_source(build: Callable[..., RolloutSource], place: Place) -> None:
    guided = evolve(SMALL, guidance=Guidance(scale=3.0, negative="zz"))
    batch, network = build(guided).draw(12), fakes.network(place)
    item = batch.items[0]
    assert item.negative is not None
    assert same(item.negative, fakes.encoders().condition(["zz"]).split()[0])
    step = item.steps[0]
    x, t, t_next = item.latents.with_tokens(step.x), torch.tensor([step.t]), torch.tensor([step.t_next])
    v = flow.Guided(network, item.negative, batch.guidance).velocity(x, t, item.condition).tokens
    assert isinstance(batch.sampler, Wandering)
    torch.testing.assert_close(batch.sampler.transition(x, v, t, t_next).mean, step.mean)
    assert build().draw(12).items[0].negative is None


def test_ties_are_dropped_and_counted(build: Callable[..., RolloutSource]) -> None:
    def says(candidate: Candidate) -> float:
        return 1.0 if candidate.prompt == "cd" else brightness(candidate)

    tied = evolve(SMALL, rewards=(Weighted(name="bright", reward=Judge(says=says)),))
    source = build(tied)
    batch = source.draw(12)
    assert sorted({item.prompt for item in batch}) == ["ab", "ef"]
    assert len(batch) == 8
    assert source.report() == {"groups with equal rewards": 1}
    assert batch.figures["rollout/ties"] == pytest.approx(1 / 3)
    kept = build(evolve(tied, drop_ties=False)).draw(12)
    assert [item.advantage for item in kept if item.prompt == "cd"] == [0.0] * 4


def test_a_group_that_differs_in_one_reward_is_no_tie_where_rewards_are_compared_one_by_one(
    build: Callable[..., RolloutSource],
) -> None:
    opposed = tuple(Weighted(name=name, reward=Judge(says=says)) for name, says in (
        ("light", lambda c: float(brightness(c) > 0.5)), ("dark", lambda c: float(brightness(c) <= 0.5)),
    ))  # fmt: skip
    assert build(evolve(SMALL, rewards=opposed)).draw(12).figures["rollout/ties"] == 1
    source = build(evolve(SMALL, rewards=opposed, advantage="per-reward"))
    batch = source.draw(12)
    assert len(batch) > 0
    assert len(batch) == 12 - 4 * source.report().get("groups with equal rewards", 0)
    assert batch.figures["rollout/ties"] == pytest.approx(1 - len(batch) / 12)


def test_rewards_and_prompts_are_closed_even_if_nothing_was_drawn(place: Place) -> None:
    closed: list[str] = []

    @frozen(kw_only=True)
    class Noted(Judge):
        def build(self, place: Place) -> Any:
            live = super().build(place)

            async def close() -> None:
                closed.append("reward")

            live.close = close
            return live

    @frozen(kw_only=True)
    class NotedPrompts(Prompts):
        def build(self, place: Place, multiple: int) -> Any:
            live = super().build(place, multiple)
            live.close = lambda: closed.append("prompts")
            return live

    settings = evolve(SMALL, prompts=NotedPrompts(), rewards=(Weighted(name="noted", reward=Noted()),))
    settings.build(place, 1).close()
    assert closed == ["reward", "prompts"]


def test_all_equal_is_nothing_to_learn(build: Callable[..., RolloutSource]) -> None:
    source = build(evolve(SMALL, rewards=(Weighted(name="same", reward=Judge(says=lambda _: 0.1)),)))
    for _ in range(2):
        batch = source.draw(6)
        assert len(batch) == 0
        assert batch.fresh
        assert batch.split(2) == []
    assert batch.figures["rollout/reward"] == pytest.approx(0.1)
    assert batch.figures["rollout/left out"] == 1


@pytest.mark.parametrize("fault", [None, float("nan"), float("inf")])
def test_what_cannot_be_judged_is_masked_and_never_0(build: Callable[..., RolloutSource], fault: float | None) -> None:
    def says(candidate: Candidate) -> float | None:
        return fault if candidate.key.endswith("/2") else brightness(candidate)

    source = build(evolve(SMALL, rewards=(Weighted(name="bright", reward=Judge(says=says)),)))
    batch = source.draw(12)
    assert len(batch) == 9
    assert not any(item.key.endswith("/2") for item in batch)
    for group in {item.group for item in batch}:
        rewards = torch.tensor([item.reward for item in batch if item.group == group], dtype=torch.float64)
        wanted = (rewards - rewards.mean()) / (rewards.std(correction=0) + SMALL.eps)
        assert [item.advantage for item in batch if item.group == group] == pytest.approx(wanted.tolist())
    assert batch.figures["rollout/masked"] == pytest.approx(0.25)
    assert sum(source.report().values()) == 3
    assert all("reward bright" in reason for reason in source.report())


def test_a_watched_reward_is_told_and_changes_nothing(build: Callable[..., RolloutSource]) -> None:
    watched = Weighted(name="held-out", weight=0.0, reward=Judge(says=lambda c: None if c.key.endswith("/1") else 7.0))
    batch, alone = build(evolve(SMALL, rewards=(BRIGHT, watched))).draw(12), build().draw(12)
    assert [item.advantage for item in batch] == [item.advantage for item in alone]
    assert batch.figures["rollout/watched/held-out"] == 7.0
    assert {"held-out" in item.rewards for item in batch} == {True, False}


def test_pictures_that_are_no_numbers_are_masked(build: Callable[..., RolloutSource], place: Place) -> None:
    network = fakes.network(place)
    with torch.no_grad():
        network.outward.bias.fill_(float("nan"))  # type: ignore[union-attr, operator]
    source = build()
    source.follow(fakes.models(network))
    assert len(source.draw(12)) == 0
    assert source.report() == {"pictures with values that are no numbers": 12}


def test_a_rollout_is_cut_into_updates_each_pass_in_another_order(build: Callable[..., RolloutSource]) -> None:
    source = build(evolve(SMALL, passes=2))
    batches = [source.draw(4) for _ in range(6)]
    passes = [[item.key for batch in batches[a:b] for item in batch] for a, b in ((0, 3), (3, 6))]
    assert sorted(passes[0]) == sorted(passes[1])
    assert len(set(passes[0])) == 12
    assert passes[0] != passes[1]
    assert [batch.fresh for batch in batches] == [True, False, False, False, False, False]
    after = source.draw(4)
    assert after.fresh
    assert not {item.key for item in after} & set(passes[0])


def test_a_batch_must_divide_the_rollout(build: Callable[..., RolloutSource]) -> None:
    with pytest.raises(QiError, match=r"train.batch: 5; a rollout gives 12 \(groups = 3 times group = 4\)"):
        build().draw(5)


def test_how_it_is_cut_into_chunks_changes_nothing(build: Callable[..., RolloutSource]) -> None:
    guided = evolve(SMALL, guidance=Guidance(scale=2.0), prompts=Prompts(references=True))
    whole = build(guided).draw(12)
    for chunk in (1, 5, 8):
        cut = build(evolve(guided, chunk=chunk)).draw(12)
        assert same(without_seconds(cut), without_seconds(whole)), chunk


def test_the_process_s_random_numbers_are_left_alone(build: Callable[..., RolloutSource]) -> None:
    state = torch.get_rng_state()
    build().draw(12)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "settings",
    [
        evolve(SMALL, passes=2, guidance=Guidance(scale=2.0)),
        evolve(SMALL, passes=2, guidance=Guidance(scale=2.0), prompts=Prompts(references=True)),
        evolve(SMALL, passes=2, sampler=Limping(steps=5)),
        evolve(SMALL, passes=2, sampler=fakes.ThreeSteps(), rewards=(BRIGHT, evolve(BRIGHT, name="more", weight=0.0))),
    ],
    ids=["guided", "references", "steps apart", "no steps"],
)
def test_it_goes_on_from_anywhere_to_the_bit(build: Callable[..., RolloutSource], settings: DrawnRollouts) -> None:
    source = build(settings)
    batches, saved = [], []
    for _ in range(9):  # a rollout and a half
        saved.append(stored(source))
        batches.append(source.draw(4))
    for position, (state, tensors) in enumerate(saved[1:], 1):
        resumed = build(settings)
        resumed.load_state_dict(state)
        resumed.load_tensors(tensors)
        for wanted in batches[position:]:
            assert same(without_seconds(resumed.draw(4)), without_seconds(wanted)), position
        assert resumed.report() == source.report()


def test_only_what_is_still_needed_is_kept(build: Callable[..., RolloutSource]) -> None:
    source = build()
    source.draw(4)
    some = len(source.tensors())
    source.draw(4)
    assert 0 < len(source.tensors()) < some
    source.draw(4)
    assert not source.tensors()


def test_pictures_of_other_settings_are_not_learned_from_after_a_resume(build: Callable[..., RolloutSource]) -> None:
    source = build()
    source.draw(4)
    state, tensors = stored(source)
    resumed = build(evolve(SMALL, guidance=Guidance(scale=2.0)))
    resumed.load_state_dict(state)
    resumed.load_tensors(tensors)
    batch = resumed.draw(4)
    assert batch.fresh
    assert all(item.negative is not None for item in batch)
    assert resumed.report() == {"pictures drawn under other settings, before a resume": 8}


def test_rewards_work_while_sampling_goes_on(build: Callable[..., RolloutSource], place: Place) -> None:
    """The first pictures' reward waits for the last pictures to be drawn: it would wait for ever if it were asked to
    end before them."""
    begun, happened = threading.Event(), threading.Event()
    reward = Weighted(name="late", reward=Waiting(happened=happened, begun=begun))
    source = build(evolve(SMALL, chunk=4, rewards=(reward,)))
    network, calls = fakes.network(place), [0]
    velocity = network.velocity

    def counted(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 9:  # three chunks of three steps
            assert begun.wait(20), "nobody judges yet"
            happened.set()
        return velocity(*args)

    network.velocity = counted  # type: ignore[method-assign]
    source.follow(fakes.models(network))
    assert len(source.draw(12)) == 12


@pytest.mark.parametrize("chunk", [3, 4, 7, 64])
def test_a_reward_that_compares_sees_whole_groups(build: Callable[..., RolloutSource], chunk: int) -> None:
    ranking = Ranking(seen=[])
    batch = build(evolve(SMALL, chunk=chunk, rewards=(Weighted(name="rank", reward=ranking),))).draw(12)
    assert sum(map(len, ranking.seen)) == 12
    assert all(call.count(group) == 4 for call in ranking.seen for group in call)
    assert sorted(item.reward for item in batch) == sorted([0.0, 1.0, 2.0, 3.0] * 3)


def test_a_reward_that_breaks_ends_the_run_with_a_sentence(build: Callable[..., RolloutSource]) -> None:
    def says(candidate: Candidate) -> float:
        raise ValueError("no such font")

    with pytest.raises(QiError, match=r"rewards: ValueError: no such font .*'broken'.*wanted a score or None"):
        build(evolve(SMALL, rewards=(Weighted(name="broken", reward=Judge(says=says)),))).draw(12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "neither 'prompts' nor 'file' is given"),
        ({"prompts": Prompts(), "file": Path("x")}, "both"),
        ({"prompts": SMALL}, "'prompts' gives Rollouts; wanted a source of Samples"),
        ({"prompts": Prompts(), "rewards": ()}, "has none with a weight"),
        ({"prompts": Prompts(), "rewards": (evolve(BRIGHT, weight=0.0),)}, "has none with a weight"),
        ({"prompts": Prompts(), "rewards": (BRIGHT, BRIGHT)}, "two rewards are called 'bright'"),
        ({"prompts": Prompts(), "group": 1}, "'group' must be > 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DrawnRollouts(**{"sampler": Wandering(), "rewards": (BRIGHT,), **settings})


def stored(source: RolloutSource) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """As a checkpoint would have it."""
    return json.loads(json.dumps(source.state_dict())), {name: t.clone() for name, t in source.tensors().items()}


def without_seconds(batch: Rollouts) -> Rollouts:
    return evolve(batch, figures={k: v for k, v in batch.figures.items() if not k.startswith("rollout/seconds/")})


def test_a_model_that_answers_0_can_be_guided(build: Callable[..., RolloutSource], place: Place) -> None:
    network = fakes.network(place)
    with torch.no_grad():
        for parameter in network.outward.parameters():  # type: ignore[union-attr]
            parameter.zero_()
    source = build(evolve(SMALL, guidance=Guidance(scale=2.0)))
    source.follow(fakes.models(network))
    assert len(source.draw(12)) == 12
