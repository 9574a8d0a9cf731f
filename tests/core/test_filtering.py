"""What filters refuse is replaced as a broken sample is, the same everywhere, and measured once."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from attrs import evolve

from qi_core import Pairs, Planned, QiError, Sample
from qi_core.bar import Bar
from qi_core.drawing import Rejected, all_made
from qi_core.filtering import Filtered, Filters, Verdict, identity_of, labelled
from support.planned import Deal, greys


def brightness(sample: Sample) -> float:
    return float(sample.image.float().mean()) / 255


LIGHT = {
    "luma": Bar(measuring=brightness, least=0.3, most=0.9, below="too dark", above="too bright"),
    "odd": Bar(measuring=lambda sample: float(int(sample.key[-1]) % 2), most=0.0, above="odd"),
}


class Told:
    def __init__(self) -> None:
        self.verdicts: dict[str, Verdict] = {}
        self.times = 0

    def __call__(self, sample: Sample, identity: bytes, verdict: Verdict) -> None:
        self.verdicts[sample.key] = verdict
        self.times += 1

    def unmade(self, key: str, verdict: Verdict) -> None:
        self.verdicts[key] = verdict


def test_the_first_filter_that_refuses_says_why_and_another_sample_comes() -> None:
    source = Filtered(Deal(greys(), broken={"grey-8": "torn"}), LIGHT)
    assert isinstance(source, Planned)
    drawn = source.draw(10)
    assert {sample.key for sample in drawn} == {"grey-4", "grey-6"}
    assert source.report() == {"luma: too dark": 3, "luma: too bright": 1, "odd: odd": 3, "torn": 1}
    with pytest.raises(Rejected) as refused:
        source.make((1,))
    assert refused.value.reason == "luma: too dark"
    assert refused.value.detail == "0.1098, at least 0.3 and at most 0.9 wanted"


def test_verdicts_are_the_same_whoever_asks_and_are_told_as_rejections() -> None:
    tickets = [(n,) for n in range(10)]
    one, other = (Filtered(Deal(greys()), LIGHT) for _ in range(2))
    with ThreadPoolExecutor(4) as pool:
        at_once = all_made(one, tickets, pool)
    later = all_made(other, tickets[::-1])[::-1]
    assert [made.item.key for made in at_once] == [made.item.key for made in later]
    assert [made.lost for made in at_once] == [made.lost for made in later]
    assert all(lost.rejected for made in at_once for lost in made.lost)


def test_a_sample_is_measured_and_told_once_until_it_is_another() -> None:
    asked: list[str] = []

    def counted(sample: Sample) -> float:
        asked.append(sample.key)
        return brightness(sample)

    deal, told = Deal(greys()), Told()
    source = Filtered(deal, {"luma": Bar(measuring=counted, least=0.3, below="too dark")}, told)
    for _ in range(3):
        source.draw(10)
    assert sorted(asked) == sorted(told.verdicts) == [f"grey-{n}" for n in range(10)]
    deal.samples = [evolve(sample, prompt="recaptioned") for sample in deal.samples]
    source.draw(10)
    assert told.times == 20, "a sample with another caption is another sample"


def test_nan_is_kept_and_all_filters_are_asked_where_thresholds_are_chosen() -> None:
    filters = Filters(filters={**LIGHT, "none": Bar(measuring=lambda _: math.nan, least=1.0, most=2.0)})
    dark = greys()[1]
    first, whole = filters.judge(dark), filters.judge(dark, whole=True)
    assert list(first.values) == ["luma"]
    assert list(whole.values) == ["luma", "odd", "none"]
    assert (whole.refused, whole.reason) == (first.refused, first.reason) == ("luma", "too dark")
    assert whole.reasons == {"luma": "too dark", "odd": "odd"}
    assert not filters.judge(greys()[4]).refused


class Lucky:
    """Needs the key alone."""

    def measure(self, sample: Sample) -> float:
        return self.measure_key(sample.key)

    def measure_key(self, key: str) -> float:
        return float(key[-1])

    def refuses(self, value: float) -> str:
        return "unlucky" if value == 7 else ""


def test_what_is_refused_by_its_key_is_not_even_made() -> None:
    for filters, made in (({"lucky": Lucky(), **LIGHT}, False), ({**LIGHT, "lucky": Lucky()}, True)):
        deal, told = Deal(greys()), Told()
        with pytest.raises(Rejected):
            Filtered(deal, filters, told).make((7,))
        assert deal.made == ["grey-7"] * made
        assert told.verdicts["grey-7"].reasons == ({"odd": "odd"} if made else {"lucky": "unlucky"})


def test_the_position_is_the_inner_source_s() -> None:
    source, again = (Filtered(Deal(greys()), LIGHT) for _ in range(2))
    source.draw(3)
    again.load_state_dict(source.state_dict())
    assert [s.key for s in again.draw(4)] == [s.key for s in source.draw(4)]


def test_what_refuses_everything_ends_in_one_line() -> None:
    nothing = {"luma": Bar(measuring=brightness, least=2.0, below="too dark")}
    with pytest.raises(QiError, match="no usable sample is left"):
        Filtered(Deal(greys()), nothing).draw(1)
    with pytest.raises(QiError, match=r"data.filters: the source gives Pairs; wanted one of Samples"):
        Filtered(Deal(greys(), gives=Pairs), LIGHT)


def test_identity_follows_picture_and_caption() -> None:
    sample = greys()[3]
    turned = evolve(sample, image=sample.image.reshape(3, 8, 32))
    assert identity_of(sample) == identity_of(greys()[3])
    assert len({identity_of(each) for each in (sample, turned, evolve(sample, prompt=""), greys()[4])}) == 4


def test_two_filters_of_one_name_have_two_labels() -> None:
    assert labelled([None] * 3, ["luma", "clarity", "luma"]) == ["luma", "clarity", "luma-2"]
