"""megatron-core's own layers, buffers and optimizer (see support.megatron_cpu) against one process.

Four ranks are started once. They do all runs: alone, as two and as four.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from support.ranks import Box, Boxes, Case, Seen, apart, boxes, free_port, make, steps, together, train, whole

pytest.importorskip("megatron.core", reason="qi[megatron] is not installed")

PACKED, LORA = Case(accumulate=2), Case(lora=True)
"""Six pictures of three sizes in two micro-batches; low rank matrices beside every linear layer."""
DPO = Case(objective="dpo", batch=4)
AGAIN, SELECTED = Case(checkpointing="all", steps=1), Case(checkpointing="selective", steps=1)
CASES = {"packed": PACKED, "lora": LORA, "dpo": DPO, "again": AGAIN, "selected": SELECTED}
LAYOUTS: dict[tuple[int, int, bool], list[str]] = {
    (1, 1, False): ["packed"],
    (2, 2, False): ["packed", "lora"],
    (2, 1, False): ["packed"],
    (4, 4, False): ["packed", "dpo"],
    (4, 2, False): ["packed", "lora", "dpo", "again"],
    (4, 1, False): ["lora", "dpo"],
    (4, 4, True): ["packed", "lora"],
    (4, 2, True): ["packed", "again", "selected"],
}
"""(ranks, tensor-parallel degree, sequence parallelism) -> the runs."""
RUNS = [(*layout, name) for layout, names in LAYOUTS.items() for name in names]
CLOSE = 1e-5
DRIFTED = 5e-5
"""Of gradients that follow from weights which rounding has set apart by 1e-7 already, where they nearly cancel out."""


@pytest.fixture(scope="module")
def told() -> list[dict[Any, Any]]:
    """What each of the four ranks tells."""
    return together(4, everything, [free_port() for _ in range(4)], preload=("support.megatron_cpu",), limit=560)


def everything(ports: list[int]) -> dict[Any, Any]:
    """On each rank."""
    told: dict[Any, Any] = {}
    with world(1, ports) as inside:
        if inside:
            from qi_plugins.parallel_single.component import Single

            alone = Single(device="cpu", precision="fp32").build()
            told |= {name: train(alone, case) for name, case in CASES.items()}
    for ranks in (1, 2, 4):
        with world(ranks, ports) as inside:
            for layout, names in LAYOUTS.items():
                if inside and layout[0] == ranks:
                    strategy = megatron(layout[1], sequence=layout[2])
                    told |= {(*layout, name): train(strategy, CASES[name]) for name in names}
            if inside and ranks == 4:
                for check in (
                    resumed,
                    exchanged,
                    rounded,
                    frozen,
                    bytes_sent,
                    refused,
                    cradled,
                    signalled,
                    untouched,
                    engine,
                ):
                    told[check.__name__] = check()
    return told


@contextmanager
def world(ranks: int, ports: list[int]) -> Generator[bool]:
    """The first so many ranks, by themselves."""
    import torch.distributed as dist

    before = dict(os.environ)
    os.environ |= {"WORLD_SIZE": str(ranks), "MASTER_PORT": str(ports[ranks - 1])}
    yield int(os.environ["RANK"]) < ranks
    if dist.is_initialized():
        dist.destroy_process_group()
    os.environ |= before


def megatron(tensor: int, **settings: Any) -> Any:
    from qi_plugins.parallel_megatron.component import Megatron

    return Megatron(device="cpu", tensor=tensor, **{"precision": "fp32", "engine": "torch", **settings}).build()


def of(told: list[dict[Any, Any]], run: tuple[int, int, bool, str]) -> list[Seen]:
    return [each[run] for each in told[: run[0]]]


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_losses_and_every_gradient_are_those_of_one_process(told: list[dict[Any, Any]], run: Any) -> None:
    seen, wanted = of(told, run), told[0][run[3]]
    assert seen[0].losses == pytest.approx(wanted.losses, rel=CLOSE)
    assert seen[0].norms == pytest.approx(wanted.norms, rel=CLOSE)
    for other in seen[1:]:
        assert (other.losses, other.norms) == (seen[0].losses, seen[0].norms)
    for step, gradients in enumerate(wanted.gradients):
        error, name = apart(whole([each.gradients[step] for each in seen]), whole([gradients]))
        assert error < (CLOSE if step == 0 else DRIFTED), f"step {step}: {name}: {error}"


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_weights_average_and_optimizer_put_together_are_those_of_one_process(
    told: list[dict[Any, Any]], run: Any
) -> None:
    seen, wanted = of(told, run), told[0][run[3]]
    assert apart(whole([each.weights for each in seen]), whole([wanted.weights]))[0] < CLOSE
    assert seen[0].shadows.keys() == wanted.shadows.keys()
    for name, kept in wanted.shadows.items():
        assert apart(whole([each.shadows[name] for each in seen]), whole([kept]))[0] < CLOSE
    assert apart(whole([each.optimizer for each in seen]), whole([wanted.optimizer]))[0] < DRIFTED
    assert all(each.state == wanted.state for each in seen)


def put(run: Any, seen: Seen) -> None:
    """Weights, average and optimizer of another layout into a run, as a checkpoint gives them."""
    from qi_core.run import EMA
    from qi_core.shards import fill_all

    def joined(own: Boxes) -> dict[str, Any]:
        return whole(run.strategy.team.gather(own))

    weights = joined(seen.weights)
    fill_all(run.held, weights, "before", "", [*run.held.trained, *run.held.frozen])
    run.shadows[EMA].load(joined(seen.shadows[EMA]), 2)
    import torch

    optimizer = joined(seen.optimizer)
    optimizer |= {f"step/{name}": torch.tensor(2.0) for name in run.held.trained}
    run.optimizer.load(optimizer, seen.state)
    run.source.load_state_dict({"at": 2 * PACKED.batch})
    run.step = 2


def resumed() -> dict[str, Any]:
    """Two steps on 2 x 2 ranks, two more on 4 x 1 and on 2 x 2."""
    found: dict[str, Any] = {}
    first = steps(make(megatron(2), PACKED), 2)
    for tensor in (4, 2):
        run = make(megatron(tensor), PACKED)
        put(run, first)
        found[f"tensor {tensor}"] = steps(run, 2)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("tensor", [4, 2])
def test_another_layout_goes_on_from_it(told: list[dict[Any, Any]], tensor: int) -> None:
    seen = [each["resumed"][f"tensor {tensor}"] for each in told]
    unbroken = of(told, (4, 2, False, "packed"))
    assert seen[0].losses == pytest.approx(unbroken[0].losses[2:], rel=CLOSE)
    assert apart(whole([s.weights for s in seen]), whole([s.weights for s in unbroken]))[0] < CLOSE
    if tensor == 2:  # the same layout: to the last bit
        assert seen[0].losses == unbroken[0].losses[2:]
        assert apart(whole([s.weights for s in seen]), whole([s.weights for s in unbroken]))[0] == 0
        assert apart(whole([s.optimizer for s in seen]), whole([s.optimizer for s in unbroken]))[0] == 0


def batch() -> Any:
    """Latents, times and texts of two pictures, 18 and 7 tokens."""
    import torch

    from qi_core.testing import fakes

    pictures = [fakes.picture(2, 3, seed=1), fakes.picture(3, 4, seed=2)]
    return fakes.Pixels().encode(pictures), torch.tensor([0.3, 0.7]), fakes.Letters().encode(["ab", "abc"])


def velocity(run: Any) -> Any:
    """What the model says, of one batch."""
    import torch

    with torch.no_grad():
        return run.model.velocity(*batch()).tokens


def exchanged() -> dict[str, Any]:
    """The model computes with its average, then with its own weights again."""
    import torch

    run = make(megatron(2, overlap=True), PACKED)
    steps(run, 2)
    before, average = velocity(run), run.shadows["ema"]
    kept = boxes(run.held, run.held.trained), boxes(run.held, average.tensors())
    with average.applied():
        inside = velocity(run)
    after = velocity(run)
    again = boxes(run.held, run.held.trained), boxes(run.held, average.tensors())
    same = all(torch.equal(a.tensor, b.tensor) for x, y in zip(kept, again, strict=True) for a, b in pairs(x, y))
    return {"inside": inside, "before": before, "back": torch.equal(before, after), "kept": same, "average": kept[1]}


def pairs(one: Boxes, other: Boxes) -> list[tuple[Box, Box]]:
    return [pair for name in one for pair in zip(one[name], other[name], strict=True)]


@pytest.mark.slow
def test_the_model_computes_with_its_average_and_with_its_own_weights_again(told: list[dict[Any, Any]]) -> None:
    import torch

    from qi_plugins.parallel_single.component import Single

    found = [each["exchanged"] for each in told]
    assert all(each["back"] and each["kept"] for each in found)
    assert not torch.allclose(found[0]["inside"], found[0]["before"], rtol=1e-3)
    alone = make(Single(device="cpu", precision="fp32").build(), PACKED)
    alone.model.load_state_dict(whole([each["average"] for each in found]))
    for each in found:
        torch.testing.assert_close(each["inside"], velocity(alone), rtol=1e-4, atol=1e-5)


def rounded() -> dict[str, Any]:
    """bfloat16: what the model computes with, and what the optimizer starts from."""
    import torch

    run = make(megatron(2, precision="bf16"), PACKED)
    names = {str(p.dtype) for p in run.model.parameters() if p.requires_grad}
    kept = boxes(run.held, {**run.held.trained, **run.held.frozen})
    seen = steps(run, 2)
    grads = {str(box.tensor.dtype) for own in seen.gradients[0].values() for box in own}
    unequal = sum(
        not torch.equal(run.held.trained[name].detach().bfloat16(), p.data.flatten()[start:stop])
        for name, p in run.model.named_parameters()
        if p.requires_grad
        for start, stop in [run.held._stretches[name]]
    )
    return {"model": names, "kept": kept, "gradients": grads, "losses": seen.losses, "unequal": unequal}


@pytest.mark.slow
def test_bf16_is_computed_with_and_fp32_is_kept_unrounded(told: list[dict[Any, Any]]) -> None:
    from qi_plugins.parallel_single.component import Single

    found = [each["rounded"] for each in told]
    alone = make(Single(device="cpu", precision="fp32").build(), PACKED)
    assert found[0]["model"] == {"torch.bfloat16"}
    assert found[0]["gradients"] == {"torch.float32"}
    assert apart(whole([each["kept"] for each in found]), alone.model.state_dict())[0] == 0
    assert found[0]["losses"] == pytest.approx(told[0]["packed"].losses[:2], rel=2e-2)
    assert found[0]["unequal"] == 0


def frozen() -> tuple[float, str]:
    """Adapted attention over frozen linear layers, which are megatron-core's."""
    import torch

    from qi_plugins.adapter_lora.component import LoRA
    from qi_plugins.parallel_single.component import Single
    from support import ranks

    found = []
    ranks_env = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE")}
    alone = Single(device="cpu", precision="fp32").build()
    os.environ |= ranks_env
    for strategy in (alone, megatron(2)):
        model, _ = ranks.network(strategy, Case())
        adapter = LoRA(rank=2, targets=("*.attn.*",)).apply(model, ranks._place(strategy))
        ranks.stir(model, 2, trained=True)
        model = strategy.place(model, adapter.sharding(model.sharding()))
        held = strategy.held(model)
        held.drive(torch.optim.AdamW([p for p in model.parameters() if p.requires_grad]))
        share = 1 / strategy.replicas  # each replica computes the same here
        out = model.velocity(*batch())
        strategy.backward(share * out.tokens.square().mean())
        strategy.clip(model.parameters(), 0.0)
        own = boxes(held, {name: p.grad for name, p in held.trained.items() if p.grad is not None})
        found.append(whole(strategy.team.gather(own)))
    return apart(found[1], found[0])


@pytest.mark.slow
def test_frozen_layers_pass_gradients_on(told: list[dict[Any, Any]]) -> None:
    assert told[0]["frozen"][0] < CLOSE


def bytes_sent() -> dict[str, float]:
    """What a rank of a ring sends in one more block, and in attention whose heads are cut apart."""
    from qi_core.testing import fakes
    from qi_plugins.mmdit.component import MMDiT
    from support import ranks

    found: dict[str, float] = {}
    for kind in ("plain", "sequence"):
        strategy = megatron(4, sequence=kind == "sequence")
        totals = []
        for layers in (2, 3):
            settings = MMDiT(layers=layers, heads=4, head_dim=8, axes_dims_rope=(2, 2, 4))
            model = settings.build(ranks._place(strategy), fakes.Pixels().width, fakes.Letters().width)
            model = strategy.place(model)
            with counted() as sent:
                out = model.velocity(*batch()).tokens.sum()
                forward = sum(sent)
                out.backward()
            totals.append((forward, sum(sent) - forward))
        found |= {f"{kind} forward": totals[1][0] - totals[0][0], f"{kind} backward": totals[1][1] - totals[0][1]}
    return found | cut_apart()


@contextmanager
def counted() -> Generator[list[float]]:
    """Bytes that a rank sends of each message: S (n - 1) / n to gather or scatter S, twice that to sum it."""
    import torch.distributed as dist
    from megatron.core.tensor_parallel import mappings

    sent: list[float] = []
    sums, gathers, scatters = dist.all_reduce, mappings.dist_all_gather_func, mappings.dist_reduce_scatter_func

    def all_reduce(tensor: Any, *args: Any, group: Any = None, **more: Any) -> Any:
        sent.append(2 * tensor.nbytes * (group.size() - 1) / group.size())
        return sums(tensor, *args, group=group, **more)

    def all_gather(whole: Any, part: Any, group: Any = None, **more: Any) -> Any:
        sent.append(whole.nbytes * (group.size() - 1) / group.size())
        return gathers(whole, part, group=group, **more)

    def reduce_scatter(part: Any, whole: Any, group: Any = None, **more: Any) -> Any:
        sent.append(whole.nbytes * (group.size() - 1) / group.size())
        return scatters(part, whole, group=group, **more)

    dist.all_reduce, mappings.dist_all_gather_func = all_reduce, all_gather
    mappings.dist_reduce_scatter_func = reduce_scatter
    try:
        yield sent
    finally:
        dist.all_reduce, mappings.dist_all_gather_func = sums, gathers
        mappings.dist_reduce_scatter_func = scatters


def cut_apart() -> dict[str, float]:
    """The same attention of 4 heads by 8 channels and 40 tokens, each rank with 2 channels of every head."""
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import reduce_from_tensor_model_parallel_region as summed

    group = parallel_state.get_tensor_model_parallel_group()
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(4, 40, 8, generator=generator) for _ in range(3))
    mine = slice(2 * group.rank(), 2 * group.rank() + 2)
    with counted() as sent:
        scores = summed(q[..., mine] @ k[..., mine].mT, group)
        out = (scores / 8**0.5).softmax(-1) @ v[..., mine]
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)[..., mine]
    assert dist.get_world_size(group) == 4
    return {"cut apart": sum(sent), "error": float((out - wanted).abs().max())}


@pytest.mark.slow
def test_a_block_sends_what_the_documentation_says(told: list[dict[Any, Any]]) -> None:
    """Four sums of all tokens, T = tokens x width x 4 bytes, two forward and two back: at degree 4, 3T and 3T. Beside
    them modulation: 2 x 6 D gathered of each sample, and the sum of gradients of its input."""
    sent, width, samples, degree = told[0]["bytes_sent"], 4 * 8, 2, 4
    once = width * 4 * (degree - 1) / degree
    tokens = (18 + 7) * once
    assert sent["plain forward"] == 2 * 2 * tokens + 2 * 6 * samples * once
    assert sent["plain backward"] == 2 * 2 * tokens + 2 * 2 * samples * once


@pytest.mark.slow
def test_with_stretches_of_tokens_a_block_sends_no_more(told: list[dict[Any, Any]]) -> None:
    """The same sums in halves, of tokens that four ranks can share; modulation's gradients are parts then."""
    sent, width, samples, degree = told[0]["bytes_sent"], 4 * 8, 2, 4
    once = width * 4 * (degree - 1) / degree
    tokens = (20 + 8) * once
    assert sent["sequence forward"] == 4 * tokens + 2 * 6 * samples * once
    assert sent["sequence backward"] == 4 * tokens + 2 * 2 * samples * once + 2 * 6 * samples * once


@pytest.mark.slow
def test_heads_cut_apart_would_send_all_scores(told: list[dict[Any, Any]]) -> None:
    """Whole heads send nothing inside of attention; parts of heads send heads x tokens^2 scores, forward alone."""
    sent = told[0]["bytes_sent"]
    assert sent["error"] < 1e-5
    assert sent["cut apart"] == 2 * 4 * 40**2 * 4 * 3 / 4


def refused() -> dict[str, str]:
    from qi_core import QiError
    from qi_plugins.mmdit.component import MMDiT
    from support import ranks

    def of_two_heads() -> None:
        strategy = megatron(4)
        settings = MMDiT(layers=2, heads=2, head_dim=16, axes_dims_rope=(4, 6, 6))
        strategy.place(settings.build(ranks._place(strategy), 12, 6))

    asked: Mapping[str, Callable[[], Any]] = {"ranks": lambda: megatron(3), "heads": of_two_heads}
    asked = {
        **asked,
        "te": lambda: megatron(1, engine="te"),
        "fp8": lambda: megatron(1, precision="bf16", engine="auto", fp8=True),
    }
    told = {}
    for name, work in asked.items():
        try:
            work()
        except QiError as error:
            told[name] = str(error)
    return told


@pytest.mark.slow
def test_what_cannot_be_is_one_line(told: list[dict[Any, Any]]) -> None:
    lines = told[0]["refused"]
    assert lines["ranks"] == "parallel.tensor: 3 does not divide 4 ranks; set it to one of 1, 2, 4"
    assert lines["heads"] == (
        "parallel.tensor: 4 does not divide the 2 attention heads of this denoiser; set it to one of 1, 2"
    )
    assert "pip install 'qi[te]'" in lines["te"]
    assert lines["fp8"].startswith("parallel: fp8 = true was asked for")


def cradled() -> tuple[str, float]:
    """Where a model is built that is to be divided; and how long a collective may take."""
    from qi_core.parallel import Dividing

    live: Any = megatron(2)
    strategy: object = live
    assert isinstance(strategy, Dividing)
    limit: float = live._grid.data._get_backend(live.device).options._timeout.total_seconds()
    return str(strategy.cradle), limit


@pytest.mark.slow
def test_no_gpu_need_hold_a_whole_model_and_collectives_outlast_the_watch(told: list[dict[Any, Any]]) -> None:
    assert [each["cradled"] for each in told] == [("cpu", 1.5 * 600 + 10)] * 4


def signalled() -> list[float]:
    """A signal that rank 3 alone has got, and a figure that all have."""
    import torch

    strategy = megatron(2)
    return list(strategy.sum(torch.tensor([float(strategy.team.rank == 3), 1.0 + strategy.replica])).tolist())


@pytest.mark.slow
def test_sums_are_the_same_on_all_ranks(told: list[dict[Any, Any]]) -> None:
    assert [each["signalled"] for each in told] == [[0.5, 3.0]] * 4


def untouched() -> list[Any]:
    """An update in which a trained weight has no part, with sums that run beside the backward pass."""
    import torch

    run = make(megatron(1), PACKED)
    steps(run, 1)
    name, layer, norms = "proj_out.weight", run.model.get_submodule("img_in"), []
    before = run.held.trained[name].detach().clone()
    for _ in range(2):
        run.strategy.backward(layer(torch.eye(3)).sum())
        norms.append(run.strategy.clip(run.model.parameters(), 0.0))
        grad = run.held.trained[name].grad
        assert grad is not None
        assert not grad.any()
        run.held.clear()
    return [norms, torch.equal(before, run.held.trained[name])]


@pytest.mark.slow
def test_a_weight_that_a_loss_does_not_reach_keeps_nobody_waiting(told: list[dict[Any, Any]]) -> None:
    norms, same = told[0]["untouched"]
    gradients = [4.0] * 3 * 32 + [4 * 3.0] * 32  # of weights and biases, from four replicas
    assert norms == [pytest.approx(sum(each**2 for each in gradients) ** 0.5)] * 2
    assert same


def engine() -> Seen:
    """TransformerEngine's layers are a stand-in here, with the arguments and answers that its documentation names: what
    is put around them is what runs."""
    import sys
    from types import ModuleType

    import torch

    from qi_plugins.parallel_megatron import library

    class Linear(torch.nn.Linear):
        def __init__(
            self, inputs: int, outputs: int, *, bias: bool, params_dtype: Any, device: Any, return_bias: bool
        ) -> None:
            super().__init__(inputs, outputs, bias, device, params_dtype)
            self.return_bias = return_bias

        def forward(self, x: Any) -> Any:
            assert len(x) % 16 == 0
            out = torch.nn.functional.linear(x, self.weight, None if self.return_bias else self.bias)
            return (out, self.bias) if self.return_bias else out

    asked: list[tuple[int, int]] = []

    class DotProductAttention(torch.nn.Module):
        def __init__(
            self, heads: int, channels: int, *, qkv_format: str, attn_mask_type: str, attention_dropout: float
        ) -> None:
            super().__init__()
            assert (qkv_format, attn_mask_type, attention_dropout) == ("thd", "padding", 0.0)
            self.shape = heads, channels

        def forward(
            self,
            q: Any,
            k: Any,
            v: Any,
            *,
            cu_seqlens_q: Any,
            cu_seqlens_kv: Any,
            max_seqlen_q: int,
            max_seqlen_kv: int,
        ) -> Any:
            assert tuple(q.shape[1:]) == self.shape
            asked.append((max_seqlen_q, max_seqlen_kv))
            ends = (cu_seqlens_q, cu_seqlens_kv, cu_seqlens_kv)
            parts = [torch.split(x, end.diff().tolist()) for x, end in zip((q, k, v), ends, strict=True)]
            found = [
                torch.nn.functional.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in one))[0]
                for one in zip(*parts, strict=True)
            ]
            return torch.cat([one.transpose(0, 1).flatten(1) for one in found])

    stand_in: Any = ModuleType("transformer_engine.pytorch")
    stand_in.Linear, stand_in.DotProductAttention = Linear, DotProductAttention
    sys.modules |= {"transformer_engine": ModuleType("transformer_engine"), stand_in.__name__: stand_in}
    from qi_plugins.mmdit import layout
    from qi_plugins.parallel_megatron import te

    kept = library.choose_engine, te.KERNELS, layout.TABLE_UP_TO
    library.choose_engine, te.KERNELS, layout.TABLE_UP_TO = lambda *_: True, (torch.float32,), 0
    try:
        seen = train(megatron(2, sequence=True), PACKED)
        assert {queries < keys for queries, keys in asked} == {True, False}  # in the last block targets alone ask
        return seen
    finally:
        library.choose_engine, te.KERNELS, layout.TABLE_UP_TO = kept
        del sys.modules["transformer_engine"], sys.modules[stand_in.__name__]


@pytest.mark.slow
def test_layers_of_transformer_engine_are_divided_alike(told: list[dict[Any, Any]]) -> None:
    seen, wanted = [each["engine"] for each in told], told[0]["packed"]
    assert seen[0].losses == pytest.approx(wanted.losses, rel=CLOSE)
    assert apart(whole([each.gradients[0] for each in seen]), whole([wanted.gradients[0]]))[0] < CLOSE
    assert apart(whole([each.weights for each in seen]), whole([wanted.weights]))[0] < CLOSE
