"""The strategy "fsdp" on 2 and 4 processes: the losses, gradients, averages and checkpoints of "single".

Float32 on both sides: what differs is the order of sums. The ranks of each launch do all that they are asked for one
after the other; each test looks at some of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from support.ranks import Case, Seen, apart, kept, make, network, steps, together, train, whole

if TYPE_CHECKING:
    from torch import Tensor

    from qi_core import Strategy
    from qi_core.store import Checkpoint
    from qi_plugins.parallel_fsdp.strategy import LiveFsdp

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5

TWO = {
    "packed": Case(),
    "LoRA": Case(lora=True),
    "DPO": Case(objective="dpo"),
    "DPO with LoRA": Case(objective="dpo", lora=True),
    "unequal shares, accumulated": Case(batch=5, accumulate=2),
    "fewer samples than ranks": Case(batch=1, accumulate=2),
    "checkpointed": Case(checkpointing="all"),
    "checkpointed selectively": Case(checkpointing="selective"),
}
FOUR = {
    "packed": Case(batch=5),
    "LoRA": Case(lora=True, accumulate=2),
    "DPO": Case(objective="dpo", checkpointing="all"),
}
HYBRID = Case(accumulate=2)
COMPILED = Case(batch=2, steps=2)


def single() -> Strategy:
    from qi_plugins.parallel_single.component import Single

    return Single(device="cpu", threads=1).build()


def fsdp(**settings: Any) -> LiveFsdp:
    from qi_plugins.parallel_fsdp.component import Fsdp

    live: Any = Fsdp(device="cpu", threads=1, timeout=60, **settings).build()
    return live


def on_two(begun: Checkpoint) -> dict[str, Any]:
    """What one of two ranks does."""
    live = fsdp()
    return {
        "runs": {name: train(live, case) for name, case in TWO.items()},
        "resumed from single": resumed(live, begun),
        "checkpoint": cut(live),
        "pictures": pictures(live),
        "clip": clipped(live),
        "sum": summed(live),
        "bf16": halved(),
        "volume": volume(live),
        "cradle": str(live.cradle),
        "limit": live._mesh.get_group()._get_backend(live.device).options._timeout.total_seconds(),
        "compiled": compiled(),
    }


def on_four() -> dict[str, Any]:
    """What one of four ranks does: tensor parallelism in pairs, and pairs that keep a copy each."""
    both, hybrid = fsdp(tensor=2), fsdp(shard=2)
    return {
        "runs": {name: train(both, case) for name, case in FOUR.items()},
        "hybrid": train(hybrid, HYBRID),
        "all": train(fsdp(), Case(steps=1)),
        "heads": told(lambda: train(fsdp(tensor=4), Case(heads=2))),
        "clip": clipped(both),
        "hybrid clip": clipped(hybrid),
        "sum": summed(both),
        "pictures": pictures(both),
        "checkpoint": cut(both),
    }


def resumed(live: Strategy, begun: Checkpoint) -> Seen:
    """Two more steps from what another strategy had."""
    from qi_core import checkpoint

    run = make(live, Case(lr=3e-3))
    checkpoint.give_back(run, begun)
    return steps(run, 2)


def cut(live: Strategy) -> tuple[Checkpoint, bool]:
    """A checkpoint after two steps; and whether the run that takes it does what the unbroken one does, bit for bit."""
    run = make(live, Case(lr=3e-3))
    steps(run, 2)
    saved = kept(run)
    unbroken, again = steps(run, 2), resumed(live, saved)
    equal = (unbroken.losses, unbroken.norms) == (again.losses, again.norms)
    pairs = [(unbroken.weights, again.weights), (unbroken.optimizer, again.optimizer), *pairs_of(unbroken, again)]
    return saved, equal and all(same(one, other) for one, other in pairs)


def pairs_of(one: Seen, other: Seen) -> list[tuple[Any, Any]]:
    return [(one.shadows[name], other.shadows[name]) for name in one.shadows]


def same(one: Mapping[str, Sequence[Any]], other: Mapping[str, Sequence[Any]]) -> bool:
    import torch

    return one.keys() == other.keys() and all(
        torch.equal(a.tensor, b.tensor) for name in one for a, b in zip(one[name], other[name], strict=True)
    )


def pictures(live: Strategy) -> list[Tensor]:
    """Drawn with the weights, with the average, and with the weights again: a sampler calls ``velocity`` itself."""
    from contextlib import nullcontext

    import torch

    from qi_core import Guidance
    from qi_core.generate import Painter
    from qi_core.testing import fakes

    run = make(live, Case(lr=0.1))
    steps(run, 1)
    drawn: list[Tensor] = []
    for weights in (nullcontext(), run.shadows["ema"].applied(), nullcontext()):
        with weights:
            painter = Painter(
                model=run.model,
                encoders=run.encoders,
                sampler=fakes.ThreeSteps(),
                guidance=Guidance(scale=2.0),
                strategy=live,
                seed=0,
            )
            drawn.append(torch.cat([each.flatten() for each in painter.paint(["ab", "c"], [(3, 4), (2, 2)])]))
    steps(run, 1)  # and it still learns
    return drawn


def clipped(live: Strategy) -> list[Any]:
    """Norms that ``clip`` tells of gradients that are all 2, of none, and of one that is not finite on one rank."""
    import torch

    model = live.place(network(live, Case())[0])
    held = live.held(model)

    def give(value: float) -> None:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, value)

    give(2.0)
    norms = [live.clip(model.parameters(), limit) for limit in (0.0, 1.0, 0.0)]
    found = {name: piece.grad for name, piece in held.trained.items()}
    values = {name: grad.unique().tolist() for name, grad in found.items() if grad is not None and grad.numel()}
    held.clear()
    norms.append(live.clip(model.parameters(), 1.0))
    give(2.0)
    live.clip([], 1.0)
    first = next(grad for piece in held.trained.values() if (grad := piece.grad) is not None and grad.numel())
    if live.team.rank == 1:
        first.view(-1)[0] = math.inf
    norms.append(live.clip(model.parameters(), 1.0))
    return [norms, values, float(first.view(-1)[-1])]


def compiled() -> Seen:
    """With the backend "eager", which traces and guards as the real one does."""
    from torch import nn

    from qi_core import devices

    before = nn.Module.compile, devices.need_compiler
    nn.Module.compile = lambda self, **_: before[0](self, backend="eager")  # type: ignore[method-assign,assignment]
    devices.need_compiler = lambda: None
    try:
        return train(fsdp(compile=True, tensor=2), COMPILED)
    finally:
        nn.Module.compile, devices.need_compiler = before  # type: ignore[method-assign]


def summed(live: Strategy) -> list[float]:
    """Of each replica's number; and of a signal that rank 1 alone was sent."""
    import torch

    signal = float(live.team.rank == 1)
    found: list[float] = live.sum(torch.tensor([float(live.replica + 1), signal])).tolist()
    return found


@contextmanager
def watched(seen: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Each collective of FSDP's, with the tensor that is larger: what was gathered, or what is reduced."""
    import torch.distributed as dist

    before: dict[str, Callable[..., Any]] = {}
    for kind, names in (
        ("all-gather", ("all_gather_single", "all_gather_into_tensor")),  # before torch 2.13 the second
        ("reduce-scatter", ("reduce_scatter_single", "reduce_scatter_tensor")),
    ):
        name = next(name for name in names if hasattr(dist, name))
        before[name] = getattr(dist, name)

        def call(*args: Any, kind: str = kind, inner: Callable[..., Any] = before[name], **kwargs: Any) -> Any:
            given = [*args, *kwargs.values()]
            seen(kind, max((each for each in given if hasattr(each, "itemsize")), key=lambda each: each.numel()))
            return inner(*args, **kwargs)

        setattr(dist, name, call)
    try:
        yield
    finally:
        for name, call in before.items():
            setattr(dist, name, call)


def halved() -> dict[str, Any]:
    """In bfloat16: what is gathered, reduced and kept, for a whole model and for a LoRA on a frozen one."""
    live = fsdp(precision="bf16")
    found: dict[str, Any] = {"gathered": set(), "reduced": set()}

    def see(kind: str, tensor: Tensor) -> None:
        if kind == "reduce-scatter":
            found["reduced"].add(str(tensor.dtype))

    for name, case in (("whole", Case()), ("LoRA", Case(lora=True))):
        run = make(live, case)
        block: Any = run.model.get_submodule("transformer_blocks.0")
        block.attn.to_q.register_forward_pre_hook(
            lambda module, _: found["gathered"].update(str(each.dtype) for each in module.parameters())
        )
        with watched(see):
            found[name] = steps(run, 2)
        found[f"{name}: kept"] = {str(piece.dtype) for piece in run.held.trained.values()}
        frozen = run.held.frozen["transformer_blocks.1.attn.to_add_out.weight"]
        found[f"{name}: frozen"] = (str(frozen.dtype), tuple(frozen.shape))
    return found


def volume(live: Strategy) -> dict[str, Any]:
    """Bytes that collectives were given in one step: whole tensors of what was gathered and reduced."""
    run = make(live, Case())
    sent = {"all-gather": 0, "reduce-scatter": 0}

    def see(kind: str, tensor: Tensor) -> None:
        sent[kind] += tensor.numel() * tensor.itemsize

    with watched(see):
        steps(run, 1)
    names = {"trained": list(run.held.trained), "frozen": list(run.held.frozen)}
    return sent | {kind: [run.held.shape(name) for name in own] for kind, own in names.items()}


def told(work: Callable[[], Any]) -> str:
    """The error that users see."""
    from qi_core import QiError

    try:
        work()
    except QiError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def wanted() -> Callable[[Case], Seen]:
    """What "single" sees of a case."""
    seen: dict[Case, Seen] = {}

    def see(case: Case) -> Seen:
        if case not in seen:
            seen[case] = train(single(), case)
        return seen[case]

    return see


@pytest.fixture(scope="module")
def begun() -> Checkpoint:
    run = make(single(), Case(lr=3e-3))
    steps(run, 2)
    return kept(run)


@pytest.fixture(scope="module")
def two(begun: Checkpoint) -> list[dict[str, Any]]:
    return together(2, on_two, begun)


@pytest.fixture(scope="module")
def four() -> list[dict[str, Any]]:
    return together(4, on_four)


def agree(ranks: Sequence[Seen], single: Seen, tolerance: float = TOLERANCE) -> None:
    """Losses, norms, figures, each gradient of each step, weights, shadows and the optimizer's state."""
    for seen in ranks:
        assert seen.losses == pytest.approx(single.losses, rel=tolerance)
        assert seen.norms == pytest.approx(single.norms, rel=tolerance)
        for own, figures in zip(seen.parts, single.parts, strict=True):
            assert own == pytest.approx(figures, rel=1e-4, abs=1e-5)
        assert seen.state == single.state
    close([seen.weights for seen in ranks], single.weights, tolerance)
    close([seen.optimizer for seen in ranks], single.optimizer, tolerance)
    for step in range(len(single.losses)):
        close([seen.gradients[step] for seen in ranks], single.gradients[step], tolerance)
    for name in single.shadows:
        close([seen.shadows[name] for seen in ranks], single.shadows[name], tolerance)


def close(ranks: Sequence[Any], single: Any, tolerance: float) -> None:
    error, name = apart(whole(ranks), whole([single]))
    assert error <= tolerance, f"{name}: {error:.2g}"


@pytest.mark.parametrize("name", TWO)
def test_two_ranks_learn_what_one_does(name: str, two: list[dict[str, Any]], wanted: Callable[[Case], Seen]) -> None:
    agree([rank["runs"][name] for rank in two], wanted(TWO[name]))


@pytest.mark.parametrize("name", FOUR)
def test_two_replicas_of_two_ranks_learn_what_one_does(
    name: str, four: list[dict[str, Any]], wanted: Callable[[Case], Seen]
) -> None:
    agree([rank["runs"][name] for rank in four], wanted(FOUR[name]))


def test_copies_of_a_divided_model_learn_what_one_does(
    four: list[dict[str, Any]], wanted: Callable[[Case], Seen]
) -> None:
    agree([rank["hybrid"] for rank in four], wanted(HYBRID))
    assert {box.copies for boxes in four[0]["hybrid"].weights.values() for box in boxes} == {2}


def test_ranks_that_hold_nothing_of_a_small_weight_are_no_trouble(
    four: list[dict[str, Any]], wanted: Callable[[Case], Seen]
) -> None:
    agree([rank["all"] for rank in four], wanted(Case(steps=1)))
    assert four[3]["all"].weights["proj_out.weight"] == []  # three rows


def test_what_single_saved_is_gone_on_with(two: list[dict[str, Any]], wanted: Callable[[Case], Seen]) -> None:
    unbroken = wanted(Case(lr=3e-3))
    for rank in two:
        assert rank["resumed from single"].losses == pytest.approx(unbroken.losses[2:], rel=TOLERANCE)
    close([rank["resumed from single"].weights for rank in two], unbroken.weights, TOLERANCE)


@pytest.mark.parametrize("ranks", ["two", "four"])
def test_single_goes_on_with_what_ranks_saved_and_they_themselves_bit_for_bit(
    ranks: str, request: pytest.FixtureRequest, wanted: Callable[[Case], Seen]
) -> None:
    every = [rank["checkpoint"] for rank in request.getfixturevalue(ranks)]
    assert [same_bits for _, same_bits in every] == [True] * len(every)
    unbroken, again = wanted(Case(lr=3e-3)), resumed(single(), every[0][0])
    assert again.losses == pytest.approx(unbroken.losses[2:], rel=TOLERANCE)
    close([again.weights], unbroken.weights, TOLERANCE)
    close([again.optimizer], unbroken.optimizer, TOLERANCE)


@pytest.mark.parametrize("ranks", ["two", "four"])
def test_pictures_are_drawn_with_the_weights_that_are_meant(ranks: str, request: pytest.FixtureRequest) -> None:
    import torch

    live, average, again = pictures(single())
    assert float((live - average).abs().max()) > 0.01
    for rank in request.getfixturevalue(ranks):
        for found, right in zip(rank["pictures"], (live, average, again), strict=True):
            torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)
        assert torch.equal(rank["pictures"][0], rank["pictures"][2])


@pytest.mark.parametrize(("ranks", "name"), [("two", "clip"), ("four", "clip"), ("four", "hybrid clip")])
def test_clip_scales_by_the_norm_over_all_ranks(ranks: str, name: str, request: pytest.FixtureRequest) -> None:
    """Whatever is held twice counts once, and all ranks are told the same to the last bit."""
    found = [rank[name] for rank in request.getfixturevalue(ranks)]
    model = network(single(), Case())[0]
    size = 2 * math.sqrt(sum(p.numel() for p in model.parameters() if p.requires_grad))
    for norms, values, untouched in found:
        assert norms[:2] == [pytest.approx(size), pytest.approx(size)]
        assert norms[2] == pytest.approx(1.0, rel=1e-4)
        assert norms[3] == 0
        assert math.isinf(norms[4])
        assert untouched == 2.0
        assert all(own == [pytest.approx(2 / size, rel=1e-4)] for own in values.values())
    assert len({tuple(norms) for norms, _, _ in found}) == 1


def test_sum_is_over_replicas_and_the_same_on_all_ranks(two: list[dict[str, Any]], four: list[dict[str, Any]]) -> None:
    assert [rank["sum"] for rank in two] == [[3.0, 1.0]] * 2
    assert [rank["sum"] for rank in four] == [[3.0, 0.5]] * 4  # what one rank of a replica was told, all are told


def test_bf16_gathers_weights_in_bfloat16_and_adds_gradients_in_float32(
    two: list[dict[str, Any]], wanted: Callable[[Case], Seen]
) -> None:
    for rank in two:
        seen = rank["bf16"]
        assert seen["gathered"] == {"torch.bfloat16"}
        assert seen["reduced"] == {"torch.float32"}
        assert seen["whole: kept"] == seen["LoRA: kept"] == {"torch.float32"}
        assert seen["LoRA: frozen"] == ("torch.bfloat16", (16, 32))  # half of it on each rank
        for name, case in (("whole", Case()), ("LoRA", Case(lora=True))):
            assert seen[name].losses == pytest.approx(wanted(case).losses[:2], rel=0.02)


def test_a_step_gathers_weights_twice_and_reduces_gradients_once(two: list[dict[str, Any]]) -> None:
    """The formula of the plan, with rows filled up to a multiple of the ranks."""
    found = two[0]["volume"]

    def filled(shapes: Sequence[tuple[int, ...]]) -> int:
        return sum(4 * 2 * -(-shape[0] // 2) * math.prod(shape[1:]) for shape in shapes)

    assert found["all-gather"] == 2 * filled([*found["trained"], *found["frozen"]])
    assert found["reduce-scatter"] == filled(found["trained"])


def test_compiled_blocks_exchange_what_plain_ones_do(two: list[dict[str, Any]], wanted: Callable[[Case], Seen]) -> None:
    agree([rank["compiled"] for rank in two], wanted(COMPILED))


def test_a_model_is_built_on_the_cpu(two: list[dict[str, Any]]) -> None:
    """Whatever the device: see ``Dividing``."""
    assert [rank["cradle"] for rank in two] == ["cpu", "cpu"]


def test_a_collective_may_take_longer_than_the_watch_over_steps(two: list[dict[str, Any]]) -> None:
    """It would end the ranks before they have told where they stand."""
    assert [rank["limit"] for rank in two] == [1.5 * 60 + 10] * 2


def test_heads_that_cannot_be_divided_are_told(four: list[dict[str, Any]]) -> None:
    line = "parallel.tensor: 4 does not divide the denoiser's 2 attention heads; set it to one of 1, 2"
    assert [rank["heads"] for rank in four] == [line] * 4
