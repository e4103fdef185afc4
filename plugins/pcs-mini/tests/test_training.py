"""Training: resuming is going on, bit for bit; autoencoder latents are standardised exactly."""

import pytest
import torch
from safetensors.torch import load_file

from pcs_mini.networks import build_vae
from pcs_mini.training import denoiser, vae
from pcs_mini.training.loop import Settings, rate
from pcs_mini.training.muon import Muon, orthogonalise
from pcs_mini.world.pool import render_pool


@pytest.fixture
def tiny(monkeypatch):
    small = denoiser.build_unet
    monkeypatch.setattr(denoiser, "build_unet", lambda: small((16, 16, 16)))


def settings(out, images, resume=False):
    return Settings(
        out=out,
        images=images,
        batch=4,
        warmup=3,
        decay_share=1e-9,
        device="cpu",
        resume=resume,
        pool=12,
        save_every=2,
    )


def test_denoiser_resumes_bit_for_bit(tmp_path, tiny):
    torch.manual_seed(0)
    autoencoder = tmp_path / "vae"
    build_vae().save_pretrained(autoencoder)
    lines = []
    denoiser.train(settings(tmp_path / "a", 16), autoencoder, lines.append)
    denoiser.train(settings(tmp_path / "b", 8), autoencoder, lines.append)
    torch.manual_seed(99)
    denoiser.train(settings(tmp_path / "b", 16, resume=True), autoencoder, lines.append)
    assert "resumed after step 2" in " ".join(lines)
    a = load_file(tmp_path / "a" / "denoiser.safetensors")
    b = load_file(tmp_path / "b" / "denoiser.safetensors")
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


def test_denoiser_starts_from_weights_alone(tmp_path, tiny):
    autoencoder = tmp_path / "vae"
    build_vae().save_pretrained(autoencoder)
    model = denoiser.train(settings(tmp_path / "a", 8), autoencoder, lambda line: None)
    again = settings(tmp_path / "b", 8)
    again.init = model
    assert (denoiser.train(again, autoencoder, lambda line: None) / "unet").is_dir()


def test_standardising_keeps_the_pictures():
    torch.manual_seed(0)
    network = build_vae().eval()
    x = torch.from_numpy(render_pool(8, 0).images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        before = network.decode(network.encode(x).latent_dist.mean).sample
        vae.standardise(network, x)
        z = network.encode(x).latent_dist.mean
        after = network.decode(z).sample
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)


def test_orthogonalise_evens_out_singular_values():
    torch.manual_seed(0)
    for shape in ((2, 16, 40), (1, 40, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.6
        assert values.max() < 1.4


def test_muon_lowers_a_quadratic():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(8, 4, 3, 3))
    optimizer = Muon([weight], lr=0.02)
    first = weight.square().sum().item()
    for _ in range(20):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert weight.square().sum().item() < first


def test_rate_rises_holds_and_falls():
    assert rate(0, 100, 10, 0.3) == pytest.approx(0.1)
    assert rate(50, 100, 10, 0.3) == 1.0
    assert rate(99, 100, 10, 0.3) == pytest.approx(1 / 30)
