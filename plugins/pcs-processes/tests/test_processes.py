"""x0, noise and v: one tongue for the techniques, the network's own for the schedulers."""

from __future__ import annotations

import pytest
import torch

from pcs_core.errors import CapabilityError
from pcs_processes import MaskedTokens, VariancePreserving

ALPHAS = torch.linspace(0.999, 0.005, 1000)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_conversions_are_inverse(prediction: str) -> None:
    process = VariancePreserving(ALPHAS, prediction)  # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 5, 4, 8, 8, generator=rng)
    level = process.level(torch.tensor([0, 10, 400, 800, 999]))
    noisy = process.corrupt(x0, noise, level)
    target = process.target(x0, noise, level)
    torch.testing.assert_close(process.denoised(target, noisy, level), x0, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(process.native(x0, noisy, level), target, rtol=1e-3, atol=1e-4)


def test_a_level_preserves_variance() -> None:
    level = VariancePreserving(ALPHAS, "epsilon").level(torch.arange(1000))
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(1000))
    assert torch.equal(level.time, torch.arange(1000))


def test_half_precision_latents_are_converted_in_fp32() -> None:
    process = VariancePreserving(ALPHAS, "v_prediction")
    x = torch.randn(1, 4, 4, 4).bfloat16()
    level = process.level(torch.tensor([500]))
    assert process.denoised(x, x, level).dtype == torch.float32
    assert process.native(x, x, level).dtype == torch.float32
    assert process.corrupt(x, x, level).dtype == torch.bfloat16


def test_zero_terminal_snr_cannot_predict_epsilon() -> None:
    alphas = ALPHAS.clone()
    alphas[-1] = 0
    with pytest.raises(CapabilityError, match="zero terminal SNR"):
        VariancePreserving(alphas, "epsilon")
    process = VariancePreserving(alphas, "v_prediction")
    x = torch.ones(1, 4, 2, 2)
    assert torch.isfinite(process.denoised(x, x, process.level(torch.tensor([999])))).all()


def test_other_predictions_are_refused() -> None:
    with pytest.raises(CapabilityError, match="'sample'"):
        VariancePreserving(ALPHAS, "sample")  # type: ignore[arg-type]


def test_times_are_drawn_over_the_whole_range() -> None:
    process = VariancePreserving(ALPHAS, "epsilon")
    times = process.draw_times(5000, torch.Generator().manual_seed(0))
    assert times.min() < 10
    assert times.max() > 990


def test_nearly_zero_terminal_snr_is_refused_too() -> None:
    alphas = torch.linspace(0.999, 0.0, 10).clamp_min(2**-24)  # what some schedulers keep
    with pytest.raises(CapabilityError, match="zero terminal SNR"):
        VariancePreserving(alphas, "epsilon")
    assert VariancePreserving(alphas, "v_prediction").times == 10


def test_tokens_are_masked_by_the_order_of_the_noise() -> None:
    process = MaskedTokens(mask_id=16)
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 16, (3, 1, 4, 4), generator=rng).float()
    noise = torch.randn(3, 1, 4, 4, generator=rng)
    level = process.level(process.at(torch.tensor([0.0, 0.5, 1.0])))
    noisy = process.corrupt(ids, noise, level)
    masked = noisy == 16
    # cos(pi / 4) of 16 tokens; at the cleanest level one is masked, else there is nothing to learn
    assert masked.flatten(1).sum(1).tolist() == [1, 11, 16]
    assert torch.equal(noisy[~masked], ids[~masked])
    for row in range(2):
        assert noise[row][masked[row]].max() < noise[row][~masked[row]].min()
    torch.testing.assert_close(
        process.fraction(level), torch.tensor([0.0, 0.5, 1.0]), atol=1e-3, rtol=0
    )


def test_the_error_of_tokens_is_the_mean_over_the_masked_ones() -> None:
    process = MaskedTokens(mask_id=16)
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 16, (2, 1, 4, 4), generator=rng).float()
    noise = torch.randn(2, 1, 4, 4, generator=rng)
    level = process.level(process.at(torch.tensor([0.3, 0.8])))
    noisy = process.corrupt(ids, noise, level)
    logits = torch.randn(2, 16, 4, 4, generator=rng)
    target = process.target(ids, noise, level)
    error = process.error(logits, target, noisy)
    assert error.shape == (2, 1, 4, 4)
    masked = noisy[:, 0] == 16
    for row in range(2):
        row_logits = logits[row][:, masked[row]].T
        expected = torch.nn.functional.cross_entropy(row_logits, target[row, 0][masked[row]])
        torch.testing.assert_close(error[row].mean(), expected)
    assert (error[:, 0][~masked] == 0).all()
