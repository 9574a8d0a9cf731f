"""The sources ``mixture`` and ``stages``: exact shares, hard transitions, and positions that can be saved."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from attrs import frozen

from qi_core import Place, Planned, QiError, Sample, Samples
from qi_core.pixels import Unusable
from qi_core.place import Closing
from qi_plugins.source_mixture.mixture import Mixture, Part
from qi_plugins.source_mixture.stages import Stage, Stages
from support.numbered import Numbered


@frozen(kw_only=True)
class Counting:
    """Gives its name and 0, 1, 2 ..., of which some are broken; found 2 too small before."""

    gives: ClassVar[type] = Samples

    name: str
    broken: tuple[int, ...] = ()
    stands_in: bool = True
    """Whether stand-ins are usable."""
    type: type[Any] | None = None

    def build(self, place: Place, multiple: int) -> Any:
        return (self.type or _Counting)(self, place.seed)


class _Counting(Numbered):
    def __init__(self, settings: Counting, seed: int) -> None:
        super().__init__(seed)
        self.settings = settings

    def sample(self, n: int) -> Sample:
        if n in self.settings.broken or (n >= 1000 and not self.settings.stands_in):
            raise Unusable("cannot be decoded", "cut short")
        return Sample(key=f"{n}", prompt=f"{self.settings.name}{n}", image=torch.empty(3, 0, 0))

    def report(self) -> dict[str, int]:
        return {"too small": 2} if self.settings.name == "a" else {}


class _OnlyDraws:
    """Of one kind: what makes a source Planned is missing."""

    def __init__(self, settings: Counting, seed: int) -> None:
        self.draw = _Counting(settings, seed).draw


class _Connected(_Counting):
    closed: ClassVar[list[str]] = []

    def close(self) -> None:
        self.closed.append(self.settings.name)
        raise OSError("no disk")


@frozen(kw_only=True)
class Others:
    """Gives something else."""

    gives: ClassVar[type] = int

    def build(self, place: Place, multiple: int) -> Any:
        raise NotImplementedError


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(device=torch.device("cpu"), dtype=torch.float32, seed=3, folder=tmp_path)


def mixture(**weights: float) -> Mixture:
    return Mixture(parts=tuple(Part(weight=w, source=Counting(name=n)) for n, w in weights.items()))


def curriculum(*lengths: int) -> Stages:
    return Stages(
        stages=tuple(Stage(name=n, samples=k, source=Counting(name=n)) for n, k in zip("abc", lengths, strict=True))
    )


def prompts(samples: Samples) -> list[str]:
    return [sample.prompt for sample in samples]


def test_each_part_has_its_exact_share_of_every_block(place: Place) -> None:
    source = mixture(a=5, b=2, c=1).build(place, 16)
    for _ in range(5):
        assert Counter(prompt[0] for prompt in prompts(source.draw(64))) == {"a": 40, "b": 16, "c": 8}


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 0.7, "b": 0.3},
        {"a": 1, "b": 1, "c": 1},
        {"a": 1, "b": 0.003},
        {"a": 0.9, **dict.fromkeys("bcdefghijk", 0.01)},
    ],
)
def test_shares_that_do_not_divide_a_block_are_never_off_by_a_whole_sample(
    place: Place, weights: dict[str, float]
) -> None:
    """Also a part that is due less than once a block is not starved."""
    source = mixture(**weights).build(place, 16)
    given: Counter[str] = Counter()
    for number in range(1, 40):
        given.update(prompt[0] for prompt in prompts(source.draw(64)))
        for name, weight in weights.items():
            assert abs(given[name] - 64 * number * weight / sum(weights.values())) < 1
    assert min(given.values()) > 0


def test_the_order_has_no_rhythm_and_comes_from_the_seed(place: Place, tmp_path: Path) -> None:
    def order(seed: int) -> str:
        other = Place(device=place.device, dtype=place.dtype, seed=seed, folder=tmp_path)
        return "".join(prompt[0] for prompt in prompts(mixture(a=1, b=1).build(other, 16).draw(128)))

    assert order(1) == order(1) != order(2)
    assert order(1)[:64] != order(1)[64:]
    assert "aaa" in order(1)
    assert "bbb" in order(1)


def test_a_part_gives_its_own_samples_in_their_order_under_unique_keys(place: Place) -> None:
    batch = mixture(a=1, b=1).build(place, 16).draw(100)
    for name in "ab":
        own = [prompt for prompt in prompts(batch) if prompt[0] == name]
        assert own == [f"{name}{i}" for i in range(len(own))]
    assert len({sample.key for sample in batch}) == 100
    assert {sample.key.partition("/")[0] for sample in batch} == {"0", "1"}


@pytest.mark.parametrize("settings", [mixture(a=0.7, b=0.2, c=0.1), curriculum(50, 41, 0)])
def test_what_is_drawn_does_not_depend_on_the_batch_size(place: Place, settings: Any) -> None:
    wanted = prompts(settings.build(place, 16).draw(200))
    source = settings.build(place, 16)
    assert [prompt for count in (1, 2, 60, 7, 64, 66) for prompt in prompts(source.draw(count))] == wanted


@pytest.mark.parametrize("settings", [mixture(a=0.7, b=0.2, c=0.1), curriculum(50, 41, 0)])
def test_a_resume_at_any_position_goes_on_with_exactly_what_follows(place: Place, settings: Any) -> None:
    unbroken = settings.build(place, 16)
    states, items = [], []
    for _ in range(140):
        states.append(json.loads(json.dumps(unbroken.state_dict())))
        items += prompts(unbroken.draw(1))
    used = settings.build(place, 16)
    used.draw(133)
    for position, state in enumerate(states):
        for resumed in (settings.build(place, 16), used):
            resumed.load_state_dict(state)
            assert prompts(resumed.draw(140 - position)) == items[position:]


def test_other_weights_hold_from_the_resume_on(place: Place) -> None:
    source = mixture(a=1, b=1).build(place, 16)
    given = Counter(prompt[0] for prompt in prompts(source.draw(100)))
    changed = mixture(a=3, b=1).build(place, 16)
    changed.load_state_dict(source.state_dict())
    batch = prompts(changed.draw(64))
    given.update(prompt[0] for prompt in batch)
    assert abs(given["a"] - (50 + 48)) < 1, "what was owed is made up for"
    assert prompts(source.draw(64)) != batch


def named(**weights: float) -> Mixture:
    return Mixture(parts=tuple(Part(name=n, weight=w, source=Counting(name=n)) for n, w in weights.items()))


def test_weights_may_be_told_while_it_gives_samples(place: Place) -> None:
    """From the next 64 samples on, for parts by their names; the others give nothing."""
    source: Any = named(real=1, synthetic=1, none=1).build(place, 16)
    source.draw(10)
    source.weigh({"real": 0.5, "synthetic": 1.5})
    source.draw(54)
    batch = source.draw(64)
    given = Counter(sample.key.partition("/")[0] for sample in batch)
    assert abs(given["real"] - 16) <= 1
    assert given["real"] + given["synthetic"] == 64
    with pytest.raises(QiError, match=r"no part of the mixture is called 'reel' .known: real, synthetic, none."):
        source.weigh({"reel": 1.0})
    source.draw(7)
    resumed: Any = named(real=1, synthetic=1, none=1).build(place, 16)
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert prompts(resumed.draw(200)) == prompts(source.draw(200))


def test_weights_by_hand_are_those_of_the_named_parts() -> None:
    changed = named(real=1, synthetic=1).weighed({"synthetic": 0.3})
    assert changed.weights == {"real": 1, "synthetic": 0.3}
    assert named(real=1, synthetic=1).weighed({"synthetic": 0}).weights == {"real": 1, "synthetic": 0}
    with pytest.raises(QiError, match="no part of the mixture is called 'x'"):
        changed.weighed({"x": 1.0})
    with pytest.raises(QiError, match="sum to nothing"):
        changed.weighed({"real": 0, "synthetic": 0})


def test_parts_may_be_added_and_not_taken_away_or_moved(place: Place) -> None:
    source = named(a=1, b=1).build(place, 16)
    given = Counter(sample.key[0] for sample in source.draw(70))
    more = named(a=1, b=1, c=2).build(place, 16)
    more.load_state_dict(json.loads(json.dumps(source.state_dict())))
    batch = more.draw(64)
    assert Counter(sample.key[0] for sample in batch)["c"] == 32
    assert f"a/{given['a']}" in {sample.key for sample in batch}, "the others go on where they were"
    for other in (named(b=1, a=1), named(a=1), named(c=1, a=1, b=1)):
        with pytest.raises(QiError, match=r"made with the parts a, b, the recipe has .*; keep them in their order"):
            other.build(place, 16).load_state_dict(source.state_dict())


def test_positions_of_a_time_when_parts_had_no_names_are_known(place: Place) -> None:
    source = named(a=1, b=1).build(place, 16)
    source.draw(70)
    state = source.state_dict()
    old = named(a=1, b=1).build(place, 16)
    old.load_state_dict({**state, "parts": list(state["parts"].values())})
    assert prompts(old.draw(64)) == prompts(source.draw(64))


def test_stages_follow_each_other_at_the_very_sample(place: Place) -> None:
    source = curriculum(3, 2, 0).build(place, 16)
    assert prompts(source.draw(4)) == ["a0", "a1", "a2", "b0"]
    batch = source.draw(3)
    assert prompts(batch) == ["b1", "c0", "c1"]
    assert [sample.key for sample in batch] == ["b/1", "c/0", "c/1"]


def test_the_last_stage_goes_on(place: Place) -> None:
    """A batch made ahead of the last step must not end the run."""
    assert prompts(curriculum(1, 1, 1).build(place, 16).draw(5))[2:] == ["c0", "c1", "c2"]


def test_lengths_of_stages_may_change_at_a_resume_names_may_not(place: Place) -> None:
    source = curriculum(3, 4, 0).build(place, 16)
    source.draw(5)
    longer = curriculum(3, 5, 0).build(place, 16)
    longer.load_state_dict(source.state_dict())
    assert prompts(longer.draw(4)) == ["b2", "b3", "b4", "c0"]
    shorter = curriculum(1, 1, 0).build(place, 16)
    shorter.load_state_dict(source.state_dict())
    assert prompts(shorter.draw(2)) == ["c0", "c1"]
    renamed = Stages(stages=(Stage(name="x", source=Counting(name="x")),))
    with pytest.raises(QiError, match="knows a stage 'a', the recipe has x"):
        renamed.build(place, 16).load_state_dict(source.state_dict())


def test_a_stage_may_be_a_mixture(place: Place) -> None:
    settings = Stages(
        stages=(Stage(name="plain", samples=10, source=Counting(name="a")), Stage(source=mixture(b=1, c=1)))
    )
    source = settings.build(place, 16)
    source.draw(10)
    keys = [sample.key for sample in source.draw(64)]
    assert Counter(key.rpartition("/")[0] for key in keys) == {"1/0": 32, "1/1": 32}
    assert source.report() == {"stage plain: too small": 2}


def test_children_roll_numbers_of_their_own(place: Place) -> None:
    source: Any = mixture(a=1, b=1).build(place, 16)
    assert len({child.seed for child in source.children.values()} | {place.seed}) == 3


def lossy(*broken: int, stands_in: bool = True) -> list[Any]:
    """A mixture and two stages, in each of which numbers of the one child are broken."""
    a, b = Counting(name="a", broken=broken, stands_in=stands_in), Counting(name="b")
    return [
        Mixture(parts=(Part(source=a), Part(source=b))),
        Stages(stages=(Stage(name="0", samples=20, source=a), Stage(name="1", source=b))),
    ]


@pytest.mark.parametrize("number", [0, 1])
def test_a_sample_that_breaks_costs_its_seat_alone(place: Place, number: int) -> None:
    """Another of the same child sits there, which the ticket decides; all others sit where they would anyway."""
    broken = (0, 3, 1003, 9)
    whole, torn = (lossy(*which)[number].build(place, 16) for which in ((), broken))
    found = dict(zip(prompts(whole.draw(40)), prompts(torn.draw(40)), strict=True))
    assert {was: now for was, now in found.items() if was != now} == {"a0": "a1000", "a3": "a2003", "a9": "a1009"}
    kind = ("part", "stage")[number]
    assert torn.report() == {f"{kind} 0: too small": 2, f"{kind} 0: cannot be decoded": 4}
    lines = list(map(json.loads, (place.folder / "skipped.jsonl").read_text().splitlines()))
    assert sorted(line["key"] for line in lines) == ["0/0", "0/1003", "0/3", "0/9"]


@pytest.mark.parametrize("number", [0, 1])
def test_what_comes_next_is_told_before_it_is_made_and_made_from_that_alone(place: Place, number: int) -> None:
    settings = lossy(3)[number]
    wanted = prompts(settings.build(place, 16).draw(40))
    planner, maker = (settings.build(place, 16) for _ in range(2))
    tickets = planner.plan(40)
    with pytest.raises(Unusable) as error:
        maker.make(tickets.pop(at := [planner.called(ticket) for ticket in tickets].index("0/3")))
    assert error.value.reason == f"{('part', 'stage')[number]} 0: cannot be decoded"
    made = [maker.make(ticket) for ticket in tickets]
    assert [sample.prompt for sample in made] == wanted[:at] + wanted[at + 1 :]
    assert [sample.key for sample in made] == [planner.called(ticket) for ticket in tickets]


@pytest.mark.parametrize("number", [0, 1])
def test_a_child_of_which_nothing_is_usable_ends_in_one_line(place: Place, number: int) -> None:
    source = lossy(*range(100), stands_in=False)[number].build(place, 16)
    with pytest.raises(QiError, match=r"^1000 samples in a row .* the last, 0/\d+: (part|stage) 0: cannot be decoded"):
        source.draw(1 if number else 64)


def test_a_source_that_cannot_say_what_comes_next_is_refused_and_works_alone(place: Place) -> None:
    only_draws = Counting(name="a", type=_OnlyDraws)
    with pytest.raises(QiError, match=r"^part 1: Counting cannot say what comes next .* train on it alone$"):
        Mixture(parts=(Part(source=Counting(name="b")), Part(source=only_draws))).build(place, 16)
    with pytest.raises(QiError, match=r"^stage late: Counting cannot say"):
        Stages(stages=(Stage(name="late", source=only_draws),)).build(place, 16)
    alone = only_draws.build(place, 16)
    assert not isinstance(alone, Planned)
    assert prompts(alone.draw(2)) == ["a0", "a1"]


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: Mixture(parts=()), "no parts"),
        (lambda: mixture(a=0), "sum to nothing"),
        (lambda: mixture(a=float("nan")), "0 .switched off. or more"),
        (lambda: mixture(a=-1), "0 .switched off. or more"),
        (lambda: Mixture(parts=(Part(name="x", source=Counting(name="a")),) * 2), "two parts are called 'x'"),
        (lambda: Stages(stages=()), "no stages"),
        (lambda: curriculum(0, 1, 1), "only the last stage"),
        (lambda: Stages(stages=(Stage(name="x", samples=1, source=Counting(name="a")),) * 2), "two stages are called"),
    ],
)
def test_settings_that_make_no_sense(make: Any, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        make()


def test_only_sources_of_samples_can_be_combined() -> None:
    with pytest.raises(QiError, match=r"parts\[1\]: Others gives int; .* must all give Samples"):
        Mixture(parts=(Part(source=Counting(name="a")), Part(source=Others())))
    with pytest.raises(QiError, match=r"stages\[0\]"):
        Stages(stages=(Stage(source=Others()),))


def test_the_components_are_read_without_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from qi_plugins.source_mixture import qi_sources; qi_sources(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_parts_let_go_of_what_they_hold_though_one_fails_to(place: Place) -> None:
    parts = [Part(name=name, source=Counting(name=name, type=_Connected)) for name in "ab"]
    source = Mixture(parts=(*parts, Part(name="c", source=Counting(name="c")))).build(place, 16)
    assert isinstance(source, Closing)
    with pytest.raises(OSError, match="no disk"):
        source.close()
    assert sorted(_Connected.closed) == ["a", "b"]
