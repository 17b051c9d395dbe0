"""The comparison of ways to train several steps."""

from __future__ import annotations

import torch

from benchmarks.distillation.few_steps import COVARIANCE, MEAN, denoise, denoise_mixture, train


def test_the_ways_lead_where_they_should() -> None:
    exact, alone = train("all", 2, 100, 0), train("one, each", 2, 100, 0)
    assert max(*exact, *alone) < 0.1
    assert max(train("one", 2, 100, 0)) > max(*exact, *alone)


def test_a_mixture_of_one_kind_is_that_kind() -> None:
    x, sigma, moments = torch.randn(4, 1, 1, 2), torch.tensor([0.1, 1.0, 3.0, 9.0]), (MEAN, COVARIANCE)
    torch.testing.assert_close(denoise_mixture([moments] * 3, x, sigma), denoise(moments, x, sigma))
    apart = denoise_mixture([moments, (MEAN + 9, COVARIANCE)], MEAN.reshape(1, 1, 1, 2), sigma[:1])
    torch.testing.assert_close(apart, denoise(moments, MEAN.reshape(1, 1, 1, 2), sigma[:1]))
