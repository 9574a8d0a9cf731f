"""The optimizer "adamw": the rate of every step, what is decayed, and a state that goes on bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qi_core import QiError
from qi_plugins.optimizer_adamw import qi_optimizers
from qi_plugins.optimizer_adamw.component import AdamW

STEPS = 20


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(4, 5)
        self.b = nn.Linear(5, 3)
        self.idle = nn.Parameter(torch.ones(2))  # never gets a gradient
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x).tanh())
        return out


def learn(net: Net, optimizer: object, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        net(x).square().mean().backward()
        optimizer.step(step)  # type: ignore[attr-defined]


def test_the_hook_gives_it() -> None:
    assert qi_optimizers() == {"adamw": AdamW}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_is_a_line_from_lr_over_warmup_to_lr(schedule: str) -> None:
    live = AdamW(lr=0.3, warmup=3, schedule=schedule).build(Net(), STEPS)  # type: ignore[arg-type]
    assert [live.rate(step) for step in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.3])


def test_without_warm_up_the_first_step_has_the_whole_rate() -> None:
    assert AdamW(lr=0.3).build(Net(), STEPS).rate(0) == 0.3
    assert AdamW(lr=0.3, schedule="cosine").build(Net(), STEPS).rate(0) == 0.3


def test_a_constant_schedule_can_end_in_a_decay() -> None:
    live = AdamW(lr=1.0, decay=4, final=0.2).build(Net(), STEPS)
    rates = [live.rate(step) for step in range(STEPS + 1)]
    assert rates[: STEPS - 3] == [1.0] * (STEPS - 3)
    assert rates[STEPS - 3 :] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_warm_up_and_decay_must_fit_into_the_run() -> None:
    settings = AdamW(warmup=16, decay=4)
    rates = [settings.build(Net(), STEPS).rate(step) for step in range(STEPS)]
    assert max(rates) == rates[15] == rates[16] == settings.lr
    with pytest.raises(QiError, match="warmup = 16 and decay = 4 do not fit into 19 steps"):
        settings.build(Net(), STEPS - 1)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"schedule": "cosine", "decay": 4}, "'decay' ends a constant schedule; with schedule = 'cosine' leave it out"),
        ({"final": 0.1}, "'final' is where cosine or decay end; set one of them"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AdamW(**given)  # type: ignore[arg-type]


def test_the_cosine_passes_the_middle_and_ends_at_final() -> None:
    live = AdamW(lr=1.0, warmup=4, schedule="cosine", final=0.1).build(Net(), STEPS)
    assert live.rate(12) == pytest.approx(0.55)  # half of the 16 steps after the warm-up
    assert live.rate(STEPS - 1) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 15 / 16)))
    assert live.rate(STEPS) == live.rate(10 * STEPS) == pytest.approx(0.1)
    rates = [live.rate(step) for step in range(3, STEPS)]
    assert rates == sorted(rates, reverse=True)


def test_a_warm_up_as_long_as_the_run_has_a_rate_at_every_step() -> None:
    live = AdamW(lr=1.0, warmup=STEPS, schedule="cosine").build(Net(), STEPS)
    assert [live.rate(step) for step in range(STEPS)] == pytest.approx([(n + 1) / STEPS for n in range(STEPS)])


def test_the_rate_that_is_told_is_the_rate_of_the_update() -> None:
    """Adam's first update is lr times the sign of the gradient."""
    net = Net()
    live = AdamW(lr=0.3, warmup=3, eps=1e-30).build(net, STEPS)
    before = net.a.weight.detach().clone()
    learn(net, live, range(1))
    assert (net.a.weight - before).abs().max().item() == pytest.approx(0.1, rel=1e-4)


def test_lr_can_be_changed_while_the_run_goes_on() -> None:
    net = Net()
    live = AdamW(lr=0.1).build(net, STEPS)
    live.lr = 0.0
    assert live.rate(5) == 0.0
    before = net.a.weight.detach().clone()
    learn(net, live, range(1))
    assert torch.equal(net.a.weight, before)


def test_it_computes_what_algorithm_2_says() -> None:
    settings = AdamW(lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    net = Net()
    live = settings.build(net, STEPS)
    weight = net.b.weight.detach().double()
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(5):
        net(torch.randn(8, 4, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        assert net.b.weight.grad is not None
        g = net.b.weight.grad.double()
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        m_hat, v_hat = m / (1 - 0.8 ** (step + 1)), v / (1 - 0.9 ** (step + 1))
        weight = weight - 0.01 * (m_hat / (v_hat.sqrt() + 1e-6) + 0.1 * weight)
        live.step(step)
    torch.testing.assert_close(net.b.weight.detach().double(), weight, atol=1e-7, rtol=1e-5)


def test_only_matrices_are_decayed() -> None:
    net = Net()
    live = AdamW(lr=0.1, weight_decay=0.5).build(net, STEPS)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    live.step(0)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (0.95 if parameter.ndim >= 2 else 1.0))


def test_a_step_clears_the_gradients() -> None:
    net = Net()
    learn(net, AdamW().build(net, STEPS), range(1))
    assert all(p.grad is None for p in net.parameters())


def test_the_state_is_flat_and_leaves_out_what_had_no_gradient() -> None:
    net = Net()
    live = AdamW().build(net, STEPS)
    assert live.tensors() == {}
    learn(net, live, range(2))
    names = {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert live.tensors().keys() == {f"{slot}/{name}" for slot in ("exp_avg", "exp_avg_sq", "step") for name in names}
    assert live.tensors()["step/a.bias"].item() == 2


def test_a_loaded_state_goes_on_bit_for_bit() -> None:
    settings = AdamW(lr=0.05, warmup=4, schedule="cosine", weight_decay=0.1)
    unbroken = Net()
    learn(unbroken, settings.build(unbroken, STEPS), range(STEPS))

    first = Net()
    stopped = settings.build(first, STEPS)
    learn(first, stopped, range(7))
    second = Net()
    second.load_state_dict(first.state_dict())
    resumed = settings.build(second, STEPS)
    resumed.load({name: t.clone() for name, t in stopped.tensors().items()}, stopped.state())
    learn(second, resumed, range(7, STEPS))

    for name, parameter in unbroken.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name)), name


def test_what_was_loaded_is_a_copy() -> None:
    net = Net()
    live = AdamW().build(net, STEPS)
    learn(net, live, range(1))
    saved = {name: t.clone() for name, t in live.tensors().items()}
    before = {name: t.clone() for name, t in saved.items()}
    live.load(saved, live.state())
    learn(net, live, range(1, 2))
    assert all(torch.equal(t, before[name]) for name, t in saved.items())


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda t: t.pop("exp_avg/a.weight"), "'exp_avg/a.weight' is missing"),
        (lambda t: t.update({"exp_avg/c": torch.ones(1)}), "'exp_avg/c' belongs to no parameter"),
        (lambda t: t.update({"exp_avg_sq/a.bias": torch.ones(6)}), r"'exp_avg_sq/a.bias' is \(6,\); \(5,\) was wanted"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_taken(
    spoil: Callable[[dict[str, Tensor]], object], told: str
) -> None:
    net = Net()
    live = AdamW().build(net, STEPS)
    learn(net, live, range(1))
    saved = {name: t.clone() for name, t in live.tensors().items()}
    spoiled = dict(saved)
    spoil(spoiled)
    with pytest.raises(QiError, match=told):
        live.load(spoiled, live.state())
    assert all(torch.equal(t, saved[name]) for name, t in live.tensors().items())


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(QiError, match="no trained parameter"):
        AdamW().build(nn.Linear(2, 2).requires_grad_(False), STEPS)


@pytest.mark.parametrize("field", [{"lr": 0.0}, {"betas": (0.9, 1.0)}, {"eps": 0.0}, {"warmup": -1}, {"final": 1.5}])
def test_numbers_out_of_range_are_refused_by_name(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        AdamW(**field)  # type: ignore[arg-type]
