"""The world's scenes: what a scene says of itself is what it shows, and what is held out stays out."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from pcs_core.errors import InputError
from pcs_mini.world import backdrops, grammar
from pcs_mini.world.assets import SLICE_FILE, Assets, AssetsError, open_assets
from pcs_mini.world.build.archive import (
    ArchiveError,
    cut_slice,
    licences,
    merge,
    read_family,
    write,
    write_family,
)
from pcs_mini.world.build.family import Family
from pcs_mini.world.places import COLOURS
from pcs_mini.world.population import Member, core, held_out, open_population
from pcs_mini.world.reserved import is_reserved
from pcs_mini.world.scene import draw, references
from pcs_mini.world.shards import Shards, render, scene_at

STYLES = ("glossy", "flat", "outlined")
SHADES = {"dog": (200, 120, 40), "owl": (90, 90, 160), "penguin": (30, 30, 60)}


def webp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def disc(size: int, shade: tuple[int, int, int]) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    inside = (rows - size / 2 + 0.5) ** 2 + (columns - size / 2 + 0.5) ** 2 < (size / 2) ** 2
    picture = np.zeros((size, size, 4), np.uint8)
    picture[inside] = (*shade, 255)
    return picture


@pytest.fixture(scope="module")
def assets(tmp_path_factory) -> Assets:
    """A tiny archive: three drawn concepts, a solid, people of two styles and a panorama."""
    files: dict[str, bytes] = {}
    index: dict = {"sources": [], "drawn": {}, "solids": {}, "people": {}, "panoramas": {}}
    for concept, shade in SHADES.items():
        styles = {style: f"drawn/{style}/{concept}.webp" for style in STYLES}
        index["drawn"][concept] = {"category": "animal", "styles": styles}
        for at, file in enumerate(styles.values()):
            files[file] = webp(disc(100, tuple(v + 10 * at for v in shade)))
    views = [[azimuth, 15] for azimuth in (0, 90, 180, 270)]
    sheet = np.hstack([disc(96, (60 * i + 20, 80, 80)) for i in range(4)])
    index["solids"]["chair"] = {
        "category": "furniture",
        "facing": "front",
        "symmetric": False,
        "views": views,
        "file": "solids/chair.webp",
        "depth": "solids/chair.depth.webp",
        "cell": 96,
        "credit": "",
    }
    files["solids/chair.webp"] = webp(sheet)
    files["solids/chair.depth.webp"] = webp(np.repeat(sheet[..., 3:] // 2, 3, 2))
    for style in ("sketch", "cartoon"):
        file = f"people/{style}/0001.webp"
        points = [[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]
        looks = [
            {"expression": word, "glasses": word == "smiling", "hat": False, "points": points}
            for word in ("smiling", "sad")
        ]
        cells = np.hstack([disc(112, (220, 180, 150)), disc(112, (220, 180, 150))])
        files[file] = webp(cells)
        index["people"][style] = {
            "0001": {
                "cell": 112,
                "file": file,
                "columns": 2,
                "words": {"hair": "red"},
                "variations": looks,
            }
        }
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[..., 0] = np.linspace(0, 255, 128)[None]
    wide[..., 1] = np.linspace(0, 255, 64)[:, None]
    files["panoramas/meadow.webp"] = webp(wide)
    index["panoramas"]["meadow"] = {"file": "panoramas/meadow.webp"}
    files["index.json"] = json.dumps(index).encode()
    path = tmp_path_factory.mktemp("world") / "world.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return open_assets(path)


def scenes(assets, n, **settings):
    population = open_population(assets)
    return [draw(np.random.default_rng((0, i)), assets, population, **settings) for i in range(n)]


def test_same_seed_same_scene_whatever_was_drawn_before(assets):
    once = scenes(assets, 12)
    other = Assets(assets.path, cache_bytes=1)
    population = open_population(other)
    for i in reversed(range(12)):
        again = draw(np.random.default_rng((0, i)), other, population)
        assert np.array_equal(again.image, once[i].image)
        assert again.caption == once[i].caption


@pytest.mark.parametrize("size", [64, 128, 200])
def test_any_size(assets, size):
    for scene in scenes(assets, 4, size=size):
        assert scene.image.shape == (size, size, 3)
        assert scene.figures[0].mask.shape == (size, size)


def test_training_never_draws_what_is_held_out(assets):
    kinds = set()
    for scene in scenes(assets, 300):
        assert scene.relation not in held_out().relations
        assert "under" not in scene.caption.split()
        for figure in scene.figures:
            kinds.add(figure.kind)
            assert figure.concept != "penguin"
            assert figure.style not in {"outlined", "cartoon"}
            assert not is_reserved(figure.concept, figure.style, scene.place)
    assert kinds == {"drawn", "solid", "person"}
    never = open_population(assets, trained=False)
    assert {"penguin"} == {m.concept for m in never.members if m.style == "flat"}
    assert any(m.style == "cartoon" for m in never.members)


def test_a_mask_is_what_the_picture_shows_of_its_subject(assets):
    dog, owl = Member("drawn", "dog", "glossy"), Member("drawn", "owl", "glossy")
    for i in range(20):
        scene = draw(
            np.random.default_rng(i),
            assets,
            open_population(assets),
            subjects=[dog, owl],
            place="white",
            relation="behind",
        )
        back, front = scene.figures
        assert not ((back.mask > 127) & (front.mask > 127)).any()
        if not (back.colour or front.colour or back.accessories or front.accessories):
            seen = scene.image[front.mask == 255].mean(0)
            assert np.abs(seen - np.array(SHADES["owl"])).max() < 12
            assert np.abs(scene.image[back.mask == 255].mean(0) - SHADES["dog"]).max() < 12


@pytest.mark.parametrize("relation", list(grammar.RELATIONS))
def test_relations_are_drawn_as_they_are_said(assets, relation):
    dog, owl = Member("drawn", "dog", "glossy"), Member("drawn", "owl", "flat")
    for i in range(20):
        scene = draw(
            np.random.default_rng(i),
            assets,
            open_population(assets),
            subjects=[dog, owl],
            relation=relation,
        )
        (al, at, ar, ab), (bl, bt, br, bb) = (figure.box for figure in scene.figures)
        across = ((al + ar) - (bl + br)) / 2
        if relation == "left of":
            assert across < -0.3
        elif relation == "right of":
            assert across > 0.3
        elif relation == "next to":
            assert abs(across) > 0.3
        elif relation == "on top of":
            assert ab < (bt + bb) / 2
            assert ab > bt - 0.02
        elif relation == "under":
            assert bb < (at + ab) / 2
        else:
            whole = (scene.figures[0].mask > 127).sum()
            assert whole > 0.02 * scene.image.shape[0] ** 2
            assert bb > ab - 0.02
        assert any(way in scene.caption for way in grammar.RELATIONS[relation])


def test_solids_know_depth_and_camera_and_people_their_points(assets):
    chair = draw(np.random.default_rng(1), assets, open_population(assets), kind="solid", count=1)
    (figure,) = chair.figures
    assert figure.camera in {(0, 15), (90, 15), (180, 15), (270, 15)}
    assert (figure.depth[figure.mask > 127] > 60).mean() > 0.95
    assert not figure.depth[figure.mask == 0].any()
    mirrored = set()
    for i in range(12):
        rng = np.random.default_rng(i)
        someone = draw(rng, assets, open_population(assets), kind="person", count=1)
        (figure,) = someone.figures
        mirrored.add(figure.pose.flipped)
        left, top, right, bottom = figure.box
        assert (figure.points > [left, top]).all()
        assert (figure.points < [right, bottom]).all()
        assert figure.points[0, 0] < figure.points[1, 0]
        assert figure.points[0, 1] < figure.points[2, 1] < figure.points[3, 1]
    assert mirrored == {True, False}


def test_references_show_the_same_thing_elsewhere(assets):
    population = open_population(assets)
    for kind in ("drawn", "solid", "person"):
        scene = draw(np.random.default_rng(3), assets, population, kind=kind, count=1)
        others = references(np.random.default_rng(4), assets, scene.figures[0], 4)
        assert len({other.place for other in others}) == 4
        for other in others:
            (figure,) = other.figures
            assert figure.instance == scene.figures[0].instance
        if kind == "solid":
            assert others[0].figures[0].camera != scene.figures[0].camera


def test_the_colour_that_is_said_is_drawn(assets):
    count = 0
    for scene in scenes(assets, 200, kind="drawn", count=1):
        (figure,) = scene.figures
        if figure.colour:
            count += 1
            assert figure.colour in scene.caption.split()
            assert scene.place != figure.colour
            expected = np.array(COLOURS[figure.colour], float)
            if expected.max() - expected.min() > 100 and not figure.accessories:
                seen = scene.image[figure.mask > 250].mean(0)
                assert np.corrcoef(seen, expected)[0, 1] > 0.95
    assert count > 5


def test_a_panorama_is_looked_into(assets):
    level = backdrops.look(assets.panorama("meadow"), 0, 0, 75, 64)
    # yaw 0 looks at the middle of the source, and further right is further right
    assert abs(int(level[32, 32, 0]) - 127) < 8
    assert (np.diff(level[32, :, 0].astype(int)) >= 0).all()
    down = backdrops.look(assets.panorama("meadow"), 0, -30, 75, 64)
    assert down[32, 32, 1] > level[32, 32, 1] + 30
    turned = backdrops.look(assets.panorama("meadow"), 45, 0, 75, 64)
    assert int(turned[32, 32, 0]) - int(level[32, 32, 0]) == pytest.approx(32, abs=4)


def test_words_of_captions_are_in_the_vocabulary(assets):
    words = set(grammar.vocabulary(assets))
    made_up = total = 0
    for scene in scenes(assets, 400):
        for word in scene.caption.replace(",", "").split():
            total += 1
            made_up += len(word) > 1 and word not in words
    assert 0 < made_up < 0.01 * total


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("hourglass", "an hourglass"),
        ("red owl", "a red owl"),
        ("orange cat", "an orange cat"),
        ("grapes", "grapes"),
        ("cactus", "a cactus"),
        ("dress", "a dress"),
        ("umbrella", "an umbrella"),
        ("bread", "bread"),
        ("girl in blue stripes", "a girl in blue stripes"),
    ],
)
def test_articles(words, said):
    assert grammar.with_article(words) == said


def test_commands(assets, tmp_path):
    from typer.testing import CliRunner

    from pcs_mini.world_commands import app

    runner = CliRunner()
    out = tmp_path / "sheet.png"
    done = runner.invoke(app, ["sheet", str(out), "-n", "9", "--archive", str(assets.path)])
    assert done.exit_code == 0, done.output
    assert Image.open(out).size[1] > 2 * 128
    folder = tmp_path / "scenes"
    arguments = ["render", str(folder), "-n", "3", "--archive", str(assets.path), "--shard", "4"]
    assert runner.invoke(app, arguments).exit_code == 0
    assert len(Shards(folder)) == 4


def test_the_shipped_lists_agree():
    lists = held_out()
    assert len(lists.concepts) >= 40
    assert len(lists.instances) >= 60
    assert not lists.concepts & set(core())
    assert not lists.concepts & {concept for concept, _ in lists.instances}
    assert len(set(core())) == len(core())


def test_the_shipped_slice():
    cut = open_assets(SLICE_FILE)
    assert SLICE_FILE.stat().st_size <= 5_000_000
    assert {"dog", "penguin", "bulldog", "tower"} <= set(grammar.vocabulary(cut))
    lists = held_out()
    names = cut.drawn.keys() | cut.solids.keys()
    assert lists.concepts <= names
    assert all(style in cut.drawn[concept].styles for concept, style in lists.instances)
    assert set(core()) <= cut.drawn.keys()
    assert open_population(cut, trained=False).concepts
    for i in range(40):
        scene = draw(np.random.default_rng(i), cut, open_population(cut, trained=i % 2 == 0))
        assert 0.02 < (scene.figures[0].mask > 127).mean() < 0.9
    page = SLICE_FILE.with_suffix(".md").read_text("utf-8")
    assert all(f"| {name} | {about.credit} |" in page for name, about in cut.solids.items())


def test_unknown_names_say_what_to_do(assets, tmp_path):
    with pytest.raises(AssetsError, match="did you mean 'dog'"):
        assets.drawing("dgo", "flat")
    with pytest.raises(AssetsError, match="pcs mini pack"):
        open_assets(tmp_path / "none.zip")
    (tmp_path / "broken.zip").write_bytes(b"no archive")
    with pytest.raises(AssetsError, match="no archive of the world"):
        open_assets(tmp_path / "broken.zip")
    with pytest.raises(AssetsError, match="meadow"):
        backdrops.paint("medow", np.random.default_rng(0), 64, assets)
    with pytest.raises(AssetsError, match="'unicorn'"):
        open_population(assets).find("unicorn")


def test_shards_are_the_same_however_they_are_made(assets, tmp_path):
    whole = Shards(render(tmp_path / "a", 6, shard=3, size=32, archive=assets.path))
    halves = tmp_path / "b"
    render(halves, 3, shard=3, size=32, archive=assets.path)
    first = (halves / "00000.jsonl").stat().st_mtime_ns
    lines: list[str] = []
    render(halves, 6, shard=3, size=32, archive=assets.path, report=lines.append)
    assert lines[0].endswith("1 of 2 shards are there")
    assert (halves / "00000.jsonl").stat().st_mtime_ns == first
    parts = Shards(halves)
    assert len(parts) == len(whole) == 6
    assert list(parts) == list(whole)
    assert np.array_equal(parts.images(range(6)), whole.images(range(6)))
    alone = scene_at(assets, open_population(assets), 0, 4, size=32)
    assert np.array_equal(whole.images([4])[0], alone.image)
    assert whole.captions[4] == alone.caption
    assert (whole.masks([4])[0] > 0).any()
    with pytest.raises(InputError, match="another seed"):
        render(halves, 6, seed=1, shard=3, size=32, archive=assets.path)
    with pytest.raises(IndexError, match="0 to 5"):
        whole.images([6])


def test_processes_change_nothing(assets, tmp_path):
    one = Shards(render(tmp_path / "one", 4, shard=2, size=32, archive=assets.path))
    two = Shards(render(tmp_path / "two", 4, shard=2, size=32, archive=assets.path, processes=2))
    assert np.array_equal(one.images(range(4)), two.images(range(4)))
    assert list(one) == list(two)


def test_families_are_merged_and_checked(assets, tmp_path):
    path = assets.path
    with zipfile.ZipFile(path) as archive:
        index = json.loads(archive.read("index.json"))
        files = {f: archive.read(f) for f in archive.namelist()}

    def only(name):
        entries = {f: d for f, d in files.items() if f.startswith(name)}
        source = {"package": name, "version": "1", "licence": "CC0-1.0"}
        return Family(entries, index[name], [source])

    families = {name: only(name) for name in ("drawn", "solids", "people", "panoramas")}
    entries, merged = merge(families)
    out = write(tmp_path / "world.zip", entries, merged)
    again = open_assets(out)
    assert again.drawn == assets.drawn
    assert [source["package"] for source in again.sources] == list(families)
    assert {"dog", "chair", "sketch", "glossy", "smiling"} <= set(again.words)
    assert write(tmp_path / "twice.zip", entries, merged).read_bytes() == out.read_bytes()
    with pytest.raises(ArchiveError, match="more than 1000"):
        write(tmp_path / "large.zip", entries, merged, limit=1000)
    assert not (tmp_path / "large.zip").exists()
    lacking = {f: d for f, d in entries.items() if "chair" not in f}
    with pytest.raises(ArchiveError, match="chair"):
        write(tmp_path / "lacking.zip", lacking, merged)
    with pytest.raises(ArchiveError, match="another family"):
        merge({**families, "solids": families["drawn"]})
    cut = open_assets(cut_slice(out, tmp_path / "slice.zip"))
    assert grammar.vocabulary(cut) == grammar.vocabulary(again)
    assert set(cut.drawn) == set(again.drawn)
    assert {"glossy", "flat", "outlined"} == set(cut.drawn["dog"].styles)
    assert cut.drawn["penguin"].styles
    assert "| `people` 1 |" in licences(again)
    kept = read_family("people", write_family("people", families["people"], tmp_path / "p.zip"))
    assert kept == families["people"]
    with pytest.raises(ArchiveError, match="solids"):
        read_family("solids", tmp_path / "p.zip")
    assert cut.drawing("dog", "flat").shape == (64, 64, 4)
    assert cut.people["sketch"]["0001"].variations[1].expression == "sad"
    scene = draw(np.random.default_rng(0), cut, open_population(cut), kind="solid")
    assert scene.figures[0].concept == "chair"
