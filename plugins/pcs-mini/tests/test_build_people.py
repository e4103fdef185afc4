"""The people of the world: identity stays, variations vary, points lie on the parts."""

import copy
import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pcs_mini.world.build.people import (
    CELL_PX,
    AvatarStyle,
    build,
    choose_people,
    draw_person,
    is_held_out,
    random_person,
    settings,
)

REASON = "the drawing packages of pcs-mini[pack] are not installed"
pytest.importorskip("dicebear", reason=REASON)
pytest.importorskip("dicebear_styles", reason=REASON)
pytest.importorskip("resvg_py", reason=REASON)

STYLES = ("sketch", "portrait", "voxel", "pixel", "cartoon")


@pytest.fixture(scope="module")
def family():
    return build(Path("unused"), lambda line: None, limit=2)


@pytest.fixture(scope="module")
def styles():
    table = settings()
    return {w: AvatarStyle(w, t, table["colours"]) for w, t in table["styles"].items()}


def cells(family, entry):
    """``[variations, cell, cell, 4]`` in 0..255."""
    sheet = np.asarray(Image.open(io.BytesIO(family.entries[entry["file"]])).convert("RGBA"), int)
    side, columns = entry["cell"], entry["columns"]
    corners = [(i // columns * side, i % columns * side) for i in range(len(entry["variations"]))]
    return np.stack([sheet[y : y + side, x : x + side] for y, x in corners])


def people(family):
    return [(w, n, e) for w, entries in family.index.items() for n, e in entries.items()]


@pytest.mark.rotated
def test_what_there_is(family):
    assert tuple(family.index) == STYLES
    assert {e["file"] for _, _, e in people(family)} == set(family.entries)
    for word, name, entry in people(family):
        assert name.startswith(word)
        assert entry["cell"] == CELL_PX
        assert len(entry["variations"]) == 12
        kinds = {(v["expression"], v["glasses"], v["hat"]) for v in entry["variations"]}
        assert len(kinds) == 12
        assert {"neutral", "happy", "sad", "surprised", "laughing"} <= {k[0] for k in kinds}
        assert any(v["glasses"] for v in entry["variations"])
    assert {s["licence"] for s in family.sources} == {"MIT", "CC0-1.0", "CC-BY-4.0"}
    assert all(len(s["sha256"]) == 64 and s["author"] for s in family.sources)


def test_same_options_same_bytes(family, styles):
    seed = settings()["seed"]
    again = [draw_person(styles["voxel"], p)[0] for p in choose_people(styles["voxel"], 2, seed)]
    other = [
        draw_person(styles["voxel"], p)[0] for p in choose_people(styles["voxel"], 2, seed + 1)
    ]
    built = [family.entries[e["file"]] for e in family.index["voxel"].values()]
    assert again == built
    assert other != built


@pytest.mark.parametrize("word", STYLES)
def test_a_face_is_nearer_to_itself_than_to_another_person(family, word):
    one, two = (cells(family, entry) for entry in family.index[word].values())
    within = max(np.abs(a - b).mean() for who in (one, two) for a in who for b in who)
    across = np.abs(one - two).mean(axis=(1, 2, 3)).min()
    assert 0 < within < across


@pytest.mark.parametrize("word", STYLES)
def test_drawings_fill_the_cell_on_a_transparent_ground(family, word):
    for entry in family.index[word].values():
        alpha = cells(family, entry)[..., 3]
        shown = alpha.max(axis=0) > 128
        assert alpha[:, 0, 0].max() == 0
        assert shown.any(axis=1).sum() >= 0.8 * CELL_PX
        assert shown[-10:].any()
        assert 0.3 < shown.mean() < 0.95


@pytest.mark.parametrize("word", STYLES)
def test_points_lie_on_the_face(family, word):
    for entry in family.index[word].values():
        for cell, variation in zip(cells(family, entry), entry["variations"], strict=True):
            points = variation["points"]
            assert len(points) == 5
            assert (points[2] is None) == (word == "pixel")
            for x, y in filter(None, points):
                assert cell[int(y * CELL_PX), int(x * CELL_PX), 3] == 255
            left, right, _, low_left, low_right = points
            assert left[0] < right[0]
            assert low_left[0] < low_right[0]
            assert max(left[1], right[1]) < min(low_left[1], low_right[1])


@pytest.mark.parametrize(
    ("word", "part", "which"),
    [(w, p, i) for w in STYLES[1:] for p, i in (("eyes", (0, 1)), ("mouth", (3, 4)))],
)
def test_what_is_at_a_point_goes_with_its_part(styles, word, part, which):
    style = styles[word]
    bare = style.table["face"]["bare"]
    person = choose_people(style, 1, 0)[0].options | {"beardProbability": 0}
    face = person | style.table["expressions"]["happy"] | bare
    size = 224
    whole = np.asarray(style.draw(face, size), int)
    without = np.asarray(style.draw(face | {f"{part}Probability": 0}, size), int)
    changed = np.abs(whole - without).max(axis=-1) > 24
    points = style.points(person, "happy")
    for x, y in (points[i] for i in which):
        column, row = round(x * size), round(y * size)
        assert changed[row - 9 : row + 10, column - 9 : column + 10].any()
    assert 0 < changed.mean() < 0.1


def test_the_points_of_sketch_lie_on_ink(styles):
    style = styles["sketch"]
    person = {"headVariant": "noHair1", "skinColor": ["#ffffff"], "clothingColor": ["#ffffff"]}
    for expression, face in style.table["expressions"].items():
        drawing = np.asarray(style.draw(person | face, 448), int)
        for x, y in style.points(person, expression):
            column, row = round(x * 448), round(y * 448)
            near = drawing[row - 9 : row + 10, column - 9 : column + 10, :3]
            assert near.min() < 60, (expression, x, y)


@pytest.mark.parametrize("word", STYLES)
def test_every_name_exists_and_a_misspelt_one_is_refused(styles, word):
    style = styles[word]
    components = style.definition["components"]
    named = list(style.named_variants())
    assert len(named) > 20
    assert all(variant in components[component]["variants"] for component, variant in named)
    table = copy.deepcopy(style.table)
    option, right = next(iter(table["expressions"]["happy"].items()))
    table["expressions"]["happy"][option] = right + "x"
    with pytest.raises(ValueError, match=rf"\[styles\.{word}\].*did you mean"):
        AvatarStyle(word, table, style.colours)


def test_another_file_of_a_style_is_refused(styles):
    table = styles["cartoon"].table | {"sha256": "0" * 64}
    with pytest.raises(ValueError, match=r"micah\.json has sha256 be8c.*expected 0000"):
        AvatarStyle("cartoon", table, styles["cartoon"].colours)


def test_held_out_are_the_last_eight_and_the_whole_unseen_style(family):
    table = settings()["styles"]
    for word in STYLES[:4]:
        assert [is_held_out(i, 48, table[word]) for i in range(48)] == [False] * 40 + [True] * 8
        assert [e["held_out"] for e in family.index[word].values()] == [False, True]
    assert [e["held_out"] for e in family.index["cartoon"].values()] == [True, True]


def test_no_colour_stands_in_two_palettes():
    colours = [c.lower() for palette in settings()["colours"].values() for c in palette.values()]
    assert len(colours) == len(set(colours))


def test_words_say_what_is_drawn(styles):
    """In a flat style the named colours cover pixels; where a word says no, the part is off."""
    style = styles["cartoon"]
    rng = random.Random(3)
    for person in choose_people(style, 6, rng.randrange(99)):
        drawing = np.asarray(style.draw(person.options | style.table["expressions"]["neutral"]))
        words = person.words
        for kind in ("skin", "hair", "clothing"):
            if words[kind] == "no":
                continue
            value = style.colours[kind][words[kind]]
            colour = [int(value[i : i + 2], 16) for i in (1, 3, 5)]
            assert (drawing[..., :3] == colour).all(axis=-1).mean() > 0.004, (kind, words)
        assert (person.options.get("facialHairProbability") == 100) == words["beard"]


def test_a_hairless_head_and_a_covered_one_say_so(styles):
    style = styles["sketch"]
    seen = set()
    for person in choose_people(style, 16, 0):
        head, words = person.options["headVariant"], person.words
        if head in style.table["hair"]["headwear"]:
            assert words["hair"] == words["hair_style"] == ""
            assert words["headwear"] == style.table["hair"]["headwear"][head]
            seen.add("headwear")
        elif head in style.table["hair"]["no"]:
            assert words["hair"] == words["hair_style"] == "no"
            seen.add("no")
        elif not style.uses_colour("head", head, "headContrast"):
            assert words["hair"] == "black"
            seen.add("ink")
        else:
            seen.add("coloured")
    assert {"headwear", "ink", "coloured"} <= seen


@pytest.mark.parametrize("word", STYLES)
def test_no_beard_hides_the_mouth(styles, word):
    """Of the style's beards, what is drawn shows another face when the mouth changes."""
    style = styles[word]
    rng = random.Random(0)
    bearded = 0
    while bearded < 3:
        person = random_person(style, rng)
        if not person.words["beard"]:
            continue
        bearded += 1
        one, two = (
            np.asarray(style.draw(person.options | style.table["expressions"][e]), int)
            for e in ("sad", "laughing")
        )
        left, right = style.points(person.options, "laughing")[3:]
        columns = slice(round(left[0] * CELL_PX), round(right[0] * CELL_PX) + 1)
        row = round((left[1] + right[1]) / 2 * CELL_PX)
        changed = np.abs(one - two)[row - 4 : row + 9, columns].max(axis=-1) > 24
        assert changed.mean() > 0.05, person.options
