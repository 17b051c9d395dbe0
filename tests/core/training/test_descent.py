"""A step with a gradient that is not finite changes nothing, whichever Adam makes it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gsd_cli.core.training.descent import descend, trapezoid
from tests.support.devices import PRETEND, pretend


def made(fused: bool) -> tuple[nn.Module, torch.optim.Adam]:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    return net, torch.optim.Adam(net.parameters(), lr=0.1, fused=fused)


def learn(net: nn.Module, poison: float = 0.0) -> torch.Tensor:
    net.zero_grad()
    loss = net(torch.ones(1, 3)).square().sum()
    loss.backward()
    for parameter in list(net.parameters())[:1]:
        assert parameter.grad is not None
        parameter.grad[0, 0] += poison
    return loss


def state(net: nn.Module, adam: torch.optim.Adam) -> list[torch.Tensor]:
    moments = [value.clone() for p in net.parameters() for value in adam.state[p].values()]
    return [*(p.detach().clone() for p in net.parameters()), *moments]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_changes_nothing(fused: bool, poison: float, clip: float | None) -> None:
    net, adam = made(fused)
    learn(net)
    descend(net, adam, clip=clip)
    before = state(net, adam)
    learn(net, poison)
    assert descend(net, adam, clip=clip).skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before, state(net, adam), strict=True))
    learn(net)
    assert descend(net, adam, clip=clip).skipped == 0
    after = state(net, adam)
    assert all(value.isfinite().all() for value in after) and not torch.equal(before[0], after[0])


@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_that_is_not_finite_changes_nothing(fused: bool) -> None:
    net, adam = made(fused)
    learn(net)
    before = net.weight.clone()
    assert descend(net, adam, torch.tensor([1.0, math.nan])).skipped == 1
    assert torch.equal(net.weight, before)
    assert descend(net, adam, torch.tensor(1.0)).skipped == 0


@pytest.mark.parametrize("fused", [False, True])
def test_a_finite_step_is_the_optimizer_s_own(fused: bool) -> None:
    ours, theirs = made(fused), made(fused)
    for _ in range(3):
        learn(ours[0])
        norm = descend(*ours, clip=0.5).norm
        learn(theirs[0])
        assert norm == pytest.approx(nn.utils.clip_grad_norm_(theirs[0].parameters(), 0.5).item())
        theirs[1].step()
    assert all(torch.equal(a, b) for a, b in zip(state(*ours), state(*theirs), strict=True))
    assert not hasattr(ours[1], "found_inf")


def test_a_fused_step_is_decided_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend() as seen:
        net = nn.Linear(3, 2).to(PRETEND)
        adam = torch.optim.SGD(net.parameters(), lr=0.1)
        adam.param_groups[0]["fused"] = True
        monkeypatch.setattr(adam, "step", lambda: None)
        net(torch.ones(1, 3, device=PRETEND)).sum().backward()
        found = descend(net, adam, torch.ones((), device=PRETEND), clip=1.0)
        assert not seen.waits
        assert found.skipped.device == PRETEND and found.skipped.item() == 0


def test_trapezoid() -> None:
    shape = [trapezoid(step, 20, 4, 0.25) for step in range(20)]
    assert shape == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 13 + [0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize(
    ("total", "warmup", "decay"), [(1, 0, 0.0), (10, 0, 0.0), (3, 500, 0.25), (10, 2, 1.0), (1, 0, 1.0)]
)
def test_trapezoid_stays_in_range(total: int, warmup: int, decay: float) -> None:
    shape = [trapezoid(step, total, warmup, decay) for step in range(total)]
    assert all(0 < v <= 1 for v in shape)
    if not decay and not warmup:
        assert set(shape) == {1.0}
