"""Training on a world of three things: repeatable, resumable, and told in a card."""

import io
import json
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from typer.testing import CliRunner

from pcs_core.errors import PcsError
from pcs_mini.architecture import (
    build_autoencoder,
    build_tokenizer,
    build_unet,
    learn_merges,
)
from pcs_mini.commands import app
from pcs_mini.generate import load_parts, pictures, tokenise
from pcs_mini.training import autoencoder, diffusion, latents
from pcs_mini.training.card import write_card
from pcs_mini.training.journal import Journal, contact_sheet, read_journal
from pcs_mini.training.latents import encode_shard, load_latents, shard_path, word_looks
from pcs_mini.training.loop import Settings, rate
from pcs_mini.training.muon import Muon, orthogonalise
from pcs_mini.world.assets import open_assets
from pcs_mini.world.curriculum import read_record

THINGS = ("disc", "square", "cross")
GROUNDS = {"red": (200, 40, 40), "blue": (40, 60, 200)}
WORDS = [*THINGS, *GROUNDS, "a", "photo", "of", "on"]


def draw(i, size=128):
    """Scene `i`: picture, mask and caption."""
    thing, (ground, colour) = THINGS[i % 3], list(GROUNDS.items())[i // 3 % 2]
    picture, mask = Image.new("RGB", (size, size), colour), Image.new("L", (size, size))
    box = (30 + i % 5, 30, 90 + i % 5, 90)
    for layer, fill in ((picture, (240, 220, 60)), (mask, 255)):
        pen = ImageDraw.Draw(layer)
        if thing == "cross":
            pen.rectangle((box[0], 54, box[2], 66), fill)
            pen.rectangle((box[0] + 24, 30, box[0] + 36, 90), fill)
        else:
            (pen.ellipse if thing == "disc" else pen.rectangle)(box, fill)
    return np.asarray(picture), np.asarray(mask), f"a photo of a {thing} on {ground}"


@pytest.fixture
def world():
    images, masks, captions = zip(*(draw(i) for i in range(24)), strict=True)
    return np.stack(images), np.stack(masks), list(captions)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(autoencoder, "build_autoencoder", partial(build_autoencoder, (8, 8, 8, 8)))
    monkeypatch.setattr(diffusion, "build_unet", partial(build_unet, (16, 16, 16)))


@pytest.fixture
def archive(tmp_path):
    """The three things as drawings of an archive."""
    path = tmp_path / "world.zip"
    index: dict = {"sources": [], "drawn": {}, "solids": {}, "people": {}, "panoramas": {}}
    with zipfile.ZipFile(path, "w") as file:
        for i, thing in enumerate(THINGS):
            picture, mask, _ = draw(i)
            sprite = np.dstack([picture, mask])[30:91, 30 + i : 91 + i]
            data = io.BytesIO()
            Image.fromarray(sprite).save(data, "WEBP", lossless=True)
            name = f"drawn/flat/{thing}.webp"
            file.writestr(name, data.getvalue())
            index["drawn"][thing] = {"category": "shapes", "styles": {"flat": name}}
        file.writestr("index.json", json.dumps(index))
    return path


@pytest.fixture
def prepared(tmp_path, world, tiny):
    """Folder of an untrained autoencoder, tokenizer, folder of the latents in two shards."""
    torch.manual_seed(0)
    network = build_autoencoder((8, 8, 8, 8)).eval()
    network.save_pretrained(tmp_path / "autoencoder")
    tokenizer = build_tokenizer(WORDS)
    images, masks, captions = world
    folder = tmp_path / "cache"
    folder.mkdir()
    for number, part in enumerate((slice(0, 12), slice(12, None))):
        path = shard_path(folder, number)
        encode_shard(network, tokenizer, images[part], masks[part], captions[part], path)
    return tmp_path / "autoencoder", tokenizer, folder


def settings(out, images, **more):
    plain = {"batch": 4, "warmup": 3, "decay_share": 1e-9, "device": "cpu", "save_every": 2}
    return Settings(out=out, images=images, **{**plain, **more})


def equal_files(a, b):
    one, two = load_file(a), load_file(b)
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]), key


def silent(line):
    pass


@pytest.mark.rotated
def test_diffusion_is_the_same_twice_and_when_resumed(tmp_path, prepared):
    diffusion.train(settings(tmp_path / "a", 32), *prepared, silent)
    torch.manual_seed(99)
    diffusion.train(settings(tmp_path / "b", 32), *prepared, silent)
    diffusion.train(settings(tmp_path / "c", 16), *prepared, silent)
    torch.manual_seed(7)
    lines = []
    diffusion.train(settings(tmp_path / "c", 32, resume=True), *prepared, lines.append)
    assert "resumed after step 4" in " ".join(lines)
    for other in "bc":
        equal_files(
            tmp_path / "a" / "diffusion.safetensors", tmp_path / other / "diffusion.safetensors"
        )
    other = settings(tmp_path / "d", 32, seed=1)
    diffusion.train(other, *prepared, silent)
    a = load_file(tmp_path / "a" / "diffusion.safetensors")
    d = load_file(tmp_path / "d" / "diffusion.safetensors")
    assert not torch.equal(a["live:unet:conv_in.weight"], d["live:unet:conv_in.weight"])


def test_a_run_leaves_a_folder_that_draws(tmp_path, prepared, monkeypatch):
    monkeypatch.setattr(diffusion, "EVERY", 2)
    watch = diffusion.Watch(("a disc", "a cross on red"), columns=2, steps=2)
    out = tmp_path / "run"
    folder = diffusion.train(settings(out, 16), *prepared, silent, watch)
    drawn = pictures(load_parts(folder), ["a disc"], steps=2)
    assert drawn.shape == (1, 3, 128, 128)
    assert Image.open(out / "samples-000004.png").size == (256, 128)
    card = write_card(folder, [out], sections={"Knows": "Three things."}).read_text()
    assert "128 x 128" in card
    assert "16x16x8" in card
    assert "16 pictures in 4 steps, of 24 scenes" in card
    assert "## Knows" in card


def test_diffusion_starts_from_weights_alone(tmp_path, prepared):
    model = diffusion.train(settings(tmp_path / "a", 8), *prepared, silent)
    again = settings(tmp_path / "b", 8, init=model, lr=0.0, matrix_lr=0.0)
    kept = diffusion.train(again, *prepared, silent)
    name = "unet/diffusion_pytorch_model.safetensors"
    equal_files(model / name, kept / name)


def test_autoencoder_is_the_same_twice_and_when_resumed(tmp_path, world, tiny):
    images = world[0]
    autoencoder.train(settings(tmp_path / "a", 32), images, silent)
    torch.manual_seed(99)
    autoencoder.train(settings(tmp_path / "b", 32), images, silent)
    autoencoder.train(settings(tmp_path / "c", 16), images, silent)
    a = load_file(tmp_path / "a" / "autoencoder.safetensors")
    b = load_file(tmp_path / "b" / "autoencoder.safetensors")
    assert all(torch.equal(value, b[key]) for key, value in a.items())
    # Whole pictures come at the end of the run as planned, so a resumed run needs the same plan.
    plan = {"decay_share": 0.5}
    whole = settings(tmp_path / "d", 32, save_every=4, **plan)
    autoencoder.train(whole, images, silent)
    part = settings(tmp_path / "e", 32, save_every=4, **plan)
    stop_after(autoencoder, part, images, 4)
    part.resume = True
    autoencoder.train(part, images, silent)
    equal_files(
        tmp_path / "d" / "autoencoder.safetensors", tmp_path / "e" / "autoencoder.safetensors"
    )


def stop_after(stage, plan, images, step):
    """Run the stage and interrupt it once its checkpoint of `step` lies there."""

    class Stopped(Exception):
        pass

    def report(line):
        if f"step {step}/" in line:
            raise Stopped

    with pytest.raises(Stopped):
        stage.train(plan, images, report)


def test_autoencoder_latents_are_standardised(tmp_path, world, tiny):
    folder = autoencoder.train(settings(tmp_path / "a", 16), world[0], silent)
    network = autoencoder.AutoencoderKL.from_pretrained(folder).eval()
    x = torch.from_numpy(world[0][:21]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        z = network.encode(x).latent_dist.mean
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(8), atol=1e-2, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(8), atol=1e-2, rtol=0)
    assert network.config.scaling_factor == 1.0


def test_decoder_alone_leaves_the_latents(tmp_path, world, tiny):
    first = autoencoder.train(settings(tmp_path / "a", 16), world[0], silent)
    alone = settings(tmp_path / "b", 16, init=first, decoder_only=True)
    second = autoencoder.train(alone, world[0], silent)
    name = "diffusion_pytorch_model.safetensors"
    one, two = load_file(first / name), load_file(second / name)
    moved = {key for key in one if not torch.equal(one[key], two[key])}
    assert moved
    assert all(key.startswith("decoder.") for key in moved)


def test_words_that_look_alike_start_alike(prepared):
    _, tokenizer, folder = prepared
    cache = load_latents(folder)
    assert len(cache) == 24
    looks = word_looks(cache, len(tokenizer), 64)
    unit = torch.nn.functional.normalize(looks, dim=1)
    ids = {word: tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in WORDS}
    likeness = unit @ unit.T
    assert likeness[ids["disc"], ids["square"]] > likeness[ids["red"], ids["blue"]]
    assert likeness[ids["red"], ids["blue"]] < -0.5
    assert not looks[tokenizer.convert_tokens_to_ids("x</w>")].any()


def test_every_scene_comes_once_an_epoch():
    order = torch.cat([diffusion._chosen(at, 4, 10, 3) for at in range(0, 40, 4)])
    for epoch in order.split(10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert order[:10].tolist() != order[10:20].tolist()


def test_timesteps_cover_the_schedule():
    t = diffusion.timesteps(4000, 1000, torch.Generator().manual_seed(0))
    assert int(t.min()) < 10
    assert int(t.max()) > 989
    middle = ((t > 200) & (t < 600)).float().mean()
    assert 0.45 < middle < 0.6


def test_scenes_are_those_of_their_numbers(archive, prepared, tmp_path):
    assets = open_assets(archive)
    images, masks, captions = latents.render(assets, 2, 3)
    one = latents.render(assets, 4, 1)
    assert np.array_equal(images[2:], one[0])
    assert captions[2:] == one[2]
    assert masks.max() == 255
    autoencoder_folder, tokenizer, _ = prepared
    folder = tmp_path / "rendered"
    for rank in (1, 0):
        share = slice(rank, None, 2)
        latents.make_latents(assets, autoencoder_folder, tokenizer, folder, 5, silent, share=share)
    cache = load_latents(folder)
    assert cache.latents.shape == (5, 8, 16, 16)
    assert torch.equal(cache.ids[2:], tokenise(tokenizer, captions))


def test_three_commands_make_a_model(archive, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(diffusion, "Watch", partial(diffusion.Watch, ("a disc",), steps=1))
    out = tmp_path / "mini"
    plain = ["--out", str(out), "--assets", str(archive), "--device", "cpu", "--batch", "4"]
    for stage, images in (("autoencoder", 8), ("latents", 6), ("diffusion", 8)):
        command = ["train", stage, "--images", str(images), "--pool", "16", *plain]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    parts = load_parts(out / "model")
    assert parts.tokenizer.tokenize("a disc") == ["a</w>", "disc</w>"]
    stages = {line["stage"] for line in read_journal(out)}
    assert stages == {"autoencoder", "diffusion"}
    whole = tmp_path / "whole"
    given = ["--out", str(whole), *plain[2:], "--pool", "16", "--images", "8"]
    result = CliRunner().invoke(app, ["train", "all", *given], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert len(load_latents(whole / "cache")) == 8
    assert load_parts(whole / "model").unet.config.sample_size == 16
    shipped = tmp_path / "weights"
    command = ["assemble", "--parts", str(out), "--out", str(shipped), "--assets", str(archive)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    half = load_file(shipped / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in half.values()} == {torch.float16}
    assert len(load_parts(shipped).tokenizer) == len(parts.tokenizer)
    card = (shipped / "model_card.md").read_text()
    assert "8 pictures in 2 steps, of 6 scenes" in card
    assert "whole trained world" in card
    assert read_record(shipped)["stage"] == 0


def test_no_latents_is_said(tmp_path):
    with pytest.raises(PcsError, match="pcs mini train latents"):
        load_latents(tmp_path)


def test_merges_are_those_of_counting_anew():
    words = ["dog", "dodo", "hotdog", "good", "go", "oddly"]
    tokenizer = build_tokenizer(words)
    for word in words:
        assert tokenizer.tokenize(word) == [f"{word}</w>"]
    assert learn_merges(words)[0] == ("d", "o")
    assert len(tokenizer.tokenize("zebra")) > 1


def test_journal_keeps_what_was_written_last(tmp_path):
    journal = Journal(tmp_path, "diffusion")
    journal.note(1, 4, loss=2.0)
    journal.note(2, 8, loss=1.0)
    journal.note(1, 4, loss=3.0)
    Journal(tmp_path, "other", active=False).note(1, 4)
    lines = read_journal(tmp_path)
    assert [(line["step"], line["loss"]) for line in lines] == [(2, 1.0), (1, 3.0)]
    assert read_journal(tmp_path / "none") == []


def test_contact_sheet_fills_rows():
    sheet = contact_sheet(torch.zeros(3, 3, 8, 8), 2)
    assert sheet.size == (16, 16)
    assert sheet.getpixel((12, 12)) == (255, 255, 255)


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
