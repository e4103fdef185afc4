"""The metrics and the gate: what they measure is measured, and misuse is refused by name."""

import io
import json
import zipfile
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from pcs_core.errors import InputError
from pcs_mini.architecture import (
    build_autoencoder,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
)
from pcs_mini.assemble import assemble
from pcs_mini.commands import app
from pcs_mini.digest import weights_sha256
from pcs_mini.evaluate import Asked, compose_prompts, evaluate, relation_holds, spread
from pcs_mini.generate import Parts
from pcs_mini.metrics import stored
from pcs_mini.metrics.clip import open_clip
from pcs_mini.metrics.identity import open_identity
from pcs_mini.metrics.judge import Judge, Reading, build, open_judge
from pcs_mini.metrics.stored import MetricError
from pcs_mini.metrics.views import open_views
from pcs_mini.training import metrics_clip, metrics_identity, metrics_judge, metrics_views
from pcs_mini.training.diffusion import write_model
from pcs_mini.training.loop import Settings
from pcs_mini.training.metrics_pictures import Replay, any_scene, degrade, view_of
from pcs_mini.world import scene
from pcs_mini.world.assets import Assets
from pcs_mini.world.curriculum import RECORD, known_population
from pcs_mini.world.grammar import vocabulary
from pcs_mini.world.population import Member, open_population
from pcs_mini.world.reserved import RESERVED_SHARE, is_reserved

SHADES = {"dog": (200, 120, 40), "owl": (90, 90, 160), "car": (220, 30, 30), "penguin": (9, 9, 60)}


def webp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def block(shade: tuple[int, ...], height: int = 80, width: int = 80) -> np.ndarray:
    return np.broadcast_to(np.array((*shade, 255), np.uint8), (height, width, 4)).copy()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Three trained concepts and a held-out one in two styles, and three people."""
    index: dict = {"sources": [], "drawn": {}, "solids": {}, "people": {}, "panoramas": {}}
    files = {}
    for at, (concept, shade) in enumerate(SHADES.items()):
        styles = {style: f"drawn/{style}/{concept}.webp" for style in ("glossy", "flat")}
        index["drawn"][concept] = {"category": "animals", "styles": styles}
        files |= {file: webp(block(shade, 40 + 20 * at)) for file in styles.values()}
    looks = [
        {"expression": word, "glasses": False, "hat": False, "points": None}
        for word in ("smiling", "sad")
    ]
    index["people"]["sketch"] = {}
    for at in range(3):
        file = f"people/sketch/{at}.webp"
        files[file] = webp(block((60 * at + 40, 150, 90), 112, 224))
        index["people"]["sketch"][str(at)] = {
            "cell": 112,
            "file": file,
            "columns": 2,
            "words": {"hair": "red"},
            "variations": looks,
        }
    path = tmp_path_factory.mktemp("world") / "world.zip"
    with zipfile.ZipFile(path, "w") as out:
        for name, data in {**files, "index.json": json.dumps(index).encode()}.items():
            out.writestr(name, data)
    return path


@pytest.fixture(scope="module")
def assets(archive):
    return Assets(archive)


def settings(out, images=16, resume=False):
    return Settings(
        out=out,
        images=images,
        batch=8,
        warmup=1,
        decay_share=1e-9,
        device="cpu",
        resume=resume,
        pool=16,
        save_every=1,
    )


@pytest.fixture(scope="module")
def metrics(tmp_path_factory, assets):
    """All four, after two steps."""
    out = tmp_path_factory.mktemp("metrics")
    patch = pytest.MonkeyPatch()
    few = metrics_views.retrieval
    patch.setattr(metrics_views, "retrieval", lambda *a, **k: few(*a, **k, things=2, views=2))
    judged, zero_shot = metrics_judge.check, metrics_clip.check
    patch.setattr(metrics_judge, "check", lambda j, a, c, n=0: judged(j, a, c, 6))
    patch.setattr(metrics_clip, "check", lambda s, a, c, n=0: zero_shot(s, a, c, 8))
    for stage in (metrics_judge, metrics_clip, metrics_identity, metrics_views):
        stage.train(settings(out), assets, lambda line: None)
    patch.undo()
    return out


# --- reserved combinations ---------------------------------------------------------------------


def test_a_twentieth_of_the_combinations_is_reserved_over_every_axis():
    concepts, styles, places = (
        [f"c{i}" for i in range(60)],
        ["glossy", "flat", "solid"],
        list("abcdefghij"),
    )
    reserved = [c for c in product(concepts, styles, places) if is_reserved(*c)]
    share = len(reserved) / (60 * 3 * 10)
    assert share == pytest.approx(RESERVED_SHARE, abs=0.02)
    assert {style for _, style, _ in reserved} == set(styles)
    assert {place for _, _, place in reserved} == set(places)


def test_the_reserved_combinations_stay_the_same():
    assert is_reserved("dog", "flat", "beach")
    assert is_reserved("fish", "glossy", "beach")
    assert not is_reserved("dog", "glossy", "beach")


def test_training_never_draws_a_reserved_combination(assets):
    rng = np.random.default_rng(0)
    dog = [Member("drawn", "dog", "flat")]
    places = {scene.draw_place(rng, assets, dog) for _ in range(400)}
    assert "beach" not in places
    assert len(places) > 10


# --- pictures ----------------------------------------------------------------------------------


def test_a_replayed_batch_depends_on_its_step_alone(assets):
    population = open_population(assets)

    def stream(first):
        return Replay(
            lambda rng: view_of(assets, any_scene(rng, assets, population)),
            6,
            uses=3,
            seed=1,
            first=first,
            capacity=8,
        )

    a, b = stream(0), stream(5)
    for _ in range(5):
        a.next()
    for one, other in zip(a.next(), b.next(), strict=True):
        assert np.array_equal(one.image, other.image)
        assert one.caption == other.caption


def test_metrics_are_trained_without_what_is_held_out(assets):
    population = open_population(assets)
    rng = np.random.default_rng(0)
    seen = {
        m.concept
        for _ in range(100)
        for m in view_of(assets, any_scene(rng, assets, population)).members
    }
    assert seen == {"dog", "owl", "car", "person"}


def test_degrading_keeps_the_range_and_changes_the_picture():
    x = torch.rand(4, 3, 64, 64)
    y = degrade(x, torch.Generator().manual_seed(0))
    assert y.shape == x.shape
    assert 0 <= y.min() <= y.max() <= 1
    assert not torch.equal(x, y)


# --- losses ------------------------------------------------------------------------------------


def test_a_caption_is_true_of_pictures_that_hold_all_it_says():
    words = {"dog", "owl", "beach", "snow", "flat", "on", "the", "a"}
    sayable = [frozenset({"dog", "beach", "flat"}), frozenset({"dog", "snow"})]
    true = metrics_clip.truths(["a flat dog", "a zog dog"], sayable, words)
    assert true.tolist() == [[True, True], [False, True]]


def test_each_cell_belongs_to_the_subject_that_covers_it(assets):
    view = view_of(
        assets, any_scene(np.random.default_rng(3), assets, open_population(assets), count=2)
    )
    owner, weight = metrics_judge.owners([view])
    assert set(owner.unique().tolist()) == {-1, 0, 1}
    for k in (0, 1):
        assert weight[owner == k].sum() == pytest.approx(1, abs=1e-5)
    assert (weight[owner < 0] == 0).all()


def test_ntxent_is_lowest_when_partners_agree():
    features = torch.nn.functional.normalize(torch.randn(6, 16), dim=1)
    assert metrics_views.ntxent(features, features) < metrics_views.ntxent(
        features, features.flip(0)
    )


# --- stages ------------------------------------------------------------------------------------


@pytest.mark.rotated
def test_every_ruler_is_saved_small_and_opens(metrics):
    images = torch.rand(3, 3, 128, 128)
    for name, opened in (
        ("clip", open_clip(metrics)),
        ("views", open_views(metrics)),
        ("identity", open_identity(metrics)),
    ):
        features = opened.image_features(images)
        torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
        saved = load_file(metrics / name / "model.safetensors")
        assert {v.dtype for v in saved.values() if v.is_floating_point()} == {torch.float16}
        assert "scores" in json.loads((metrics / name / "config.json").read_text())
    assert open_clip(metrics).text_features(["a dog"]).shape == (1, 128)
    total = sum(path.stat().st_size for path in metrics.glob("*/model.safetensors"))
    assert total < 12e6


def test_gradients_reach_the_picture(metrics):
    for metric in (open_clip(metrics), open_views(metrics), open_identity(metrics)):
        image = torch.rand(1, 3, 128, 128, requires_grad=True)
        metric.image_features(image)[0, 0].backward()
        assert image.grad.abs().sum() > 0


@pytest.mark.rotated
def test_a_stage_resumes_bit_for_bit(tmp_path, assets, monkeypatch):
    monkeypatch.setattr(metrics_judge, "check", lambda *a: {})
    metrics_judge.train(settings(tmp_path / "a", 24), assets, lambda line: None)
    metrics_judge.train(settings(tmp_path / "b", 16), assets, lambda line: None)
    metrics_judge.train(settings(tmp_path / "b", 24, resume=True), assets, lambda line: None)
    a, b = (load_file(tmp_path / x / "judge.safetensors") for x in "ab")
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


# --- the judge ---------------------------------------------------------------------------------


def reading(judge, at):
    """A reading in which the cells of `at` (concept -> row, column) are sure."""
    cells = torch.zeros(1, len(judge.names["concept"]), 8, 8)
    for concept, (row, column) in at.items():
        cells[0, judge.index("concept", concept), row, column] = 1
    return Reading(cells.amax((2, 3)), cells, torch.zeros(1, 2), torch.zeros(1, 2))


@pytest.fixture(scope="module")
def judge():
    names = {"concept": ["car", "dog", "owl"], "style": ["flat"], "place": ["beach"]}
    return Judge(build(names).eval(), names)


def test_the_surest_concepts_must_be_the_wanted_ones(judge):
    read = reading(judge, {"dog": (2, 2), "owl": (5, 5)})
    assert judge.concepts_match(read, [["dog", "owl"]]) == [True]
    assert judge.concepts_match(read, [["owl", "dog"]]) == [True]
    assert judge.concepts_match(read, [["dog", "car"]]) == [False]


def test_names_that_the_judge_has_not_learned_are_refused(judge):
    with pytest.raises(MetricError, match="knows no concept 'dgo', did you mean 'dog'"):
        judge.index("concept", "dgo")


def test_a_relation_is_read_off_the_cells(judge):
    read = reading(judge, {"dog": (4, 1), "owl": (4, 6)})

    def holds(relation):
        pair = tuple(Member("drawn", c, "flat") for c in ("dog", "owl"))
        return relation_holds(judge, read, 0, Asked("", pair, "flat", "beach", relation))

    assert holds("left of") is True
    assert holds("right of") is False
    assert holds("on top of") is False
    assert holds("next to") is None


def test_a_missing_ruler_says_how_to_make_it(tmp_path):
    with pytest.raises(MetricError, match="pcs mini metric judge"):
        open_judge(tmp_path)


# --- the gate ----------------------------------------------------------------------------------


def all_knowing(assets):
    names = metrics_judge.names_of(assets, open_population(assets))
    return Judge(build(names).eval(), names)


def test_prompts_are_reserved_combinations_of_trained_words(assets):
    asked = compose_prompts(assets, open_population(assets), all_knowing(assets), 10)
    assert len({a.text for a in asked}) == 10
    for a in asked:
        assert any(is_reserved(m.concept, m.style, a.place) for m in a.members)
        assert "penguin" not in a.text
        assert all(concept in a.text for concept in a.concepts)
    assert sum(len(a.members) == 2 for a in asked) == 2
    assert asked == compose_prompts(assets, open_population(assets), all_knowing(assets), 10)


def test_prompts_keep_to_the_words_that_the_weights_know(tmp_path, assets):
    record = {"stage": 1, "concepts": ["dog", "owl"], "styles": ["flat"], "people": []}
    (tmp_path / RECORD).write_text(json.dumps(record))
    population = known_population(tmp_path, assets)
    asked = compose_prompts(assets, population, all_knowing(assets), 4)
    assert {m.style for a in asked for m in a.members} == {"flat"}
    assert {m.concept for a in asked for m in a.members} <= {"dog", "owl"}
    with pytest.raises(InputError, match="of what the weights know"):
        compose_prompts(assets, population, all_knowing(assets), 100)


def test_a_small_world_says_how_many_prompts_it_has(assets):
    with pytest.raises(InputError, match=r"gives \d+ prompts of what the weights know, not 300"):
        compose_prompts(assets, open_population(assets), all_knowing(assets), 300)


def test_spread_is_that_of_pictures_of_one_prompt():
    same = torch.rand(2, 3, 32, 32).repeat_interleave(4, 0)
    assert spread(same) == pytest.approx(0, abs=1e-3)
    assert spread(torch.cat([torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 32)])) > 0.5


def test_the_gate_prints_one_flat_object(tmp_path, archive, assets, metrics):
    tokenizer = build_tokenizer(vocabulary(assets))
    parts = Parts(
        tokenizer,
        build_text_encoder(tokenizer, width=32, layers=1),
        build_autoencoder((8, 8, 8, 8)),
        build_unet((16, 16, 16), text_width=32),
        build_scheduler(),
    )
    write_model(tmp_path, parts)
    given = ["--weights", tmp_path, "--assets", archive, "--metrics", metrics, "--prompts", 10]
    result = CliRunner().invoke(app, ["evaluate", *map(str, given), "--steps", "1", "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    shares = [k for k in figures if k.endswith("accuracy") or k == "diversity"]
    assert {"concept_accuracy", "place_accuracy", "style_accuracy", "judge_accuracy"} <= {*shares}
    assert {"two_subject_accuracy", "core_concept_accuracy", "vae_psnr_db"} <= figures.keys()
    assert all(0 <= figures[k] <= 1 for k in shares)
    assert figures["prompts"] == 10
    assert len(figures["weights_sha256"]) == 64
    assert all(not isinstance(value, (dict, list)) for value in figures.values())
    assert (figures["stage"], figures["stage_concepts"]) == (0, 4)
    before = weights_sha256(tmp_path)
    (tmp_path / "vae" / "x.safetensors").write_bytes(b"0")
    assert weights_sha256(tmp_path) != before


def test_stored_weights_come_back(tmp_path):
    net = torch.nn.Linear(3, 2)
    stored.write(tmp_path / "line", net, {"a": 1})
    again, config = stored.read("line", tmp_path, lambda c: torch.nn.Linear(3, 2))
    assert config == {"a": 1}
    torch.testing.assert_close(again.weight, net.weight, atol=1e-3, rtol=0)
    assert not again.weight.requires_grad


def test_a_folder_without_a_model_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="holds no model"):
        assemble(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(InputError, match="holds no model"):
        evaluate(tmp_path / "nothing", 10)
    assert not (tmp_path / "out").exists()
