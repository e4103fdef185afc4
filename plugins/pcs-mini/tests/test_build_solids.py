"""The solids' reader, renderer and table, on models written here by hand."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pcs_mini.world.build import solids as build_solids
from pcs_mini.world.build.rasterise import DISTANCE, FIELD_OF_VIEW, View, render, zoom_to_fit
from pcs_mini.world.build.wavefront import GREY, Mesh, read_obj

CORNERS = "".join(f"v {x} {y} {z}\n" for x in (-1, 1) for y in (-1, 1) for z in (-1, 1))
"""Numbered 1..8 by x, then y, then z."""
CUBE = f"""mtllib cube.mtl
{CORNERS}usemtl red
f 2 6 8 4
usemtl blue
f 5 6 8 7
f 1 2 4 3
f 1 5 7 3
f 3 4 8 7
f 1 2 6 5
"""
"""A cube whose front (+z) is red, and blue everywhere else."""
COLOURS = "newmtl red\nKd 1 0 0\nnewmtl blue\nKd 0 0 1\n"
SQUARE = "v -1 -1 {z}\nv 1 -1 {z}\nv 1 1 {z}\nv -1 1 {z}\n"
MARKS = "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"


def model(obj: str, mtl: str = COLOURS, **pictures: Image.Image) -> Mesh:
    files = {"box/cube.obj": obj.encode(), "box/cube.mtl": mtl.encode()}
    for name, picture in pictures.items():
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        files[f"box/{name}.png"] = buffer.getvalue()
    return read_obj("box/cube.obj", files.get)


def two_squares(front: str, back: str, mtl: str, **pictures: Image.Image) -> Mesh:
    """A square at z = 0.5 before one at z = -0.5; radius as it is, not fitted."""
    mesh = model(
        f"mtllib cube.mtl\n{SQUARE.format(z=0.5)}{SQUARE.format(z=-0.5)}{MARKS}"
        f"usemtl {front}\nf 1/1 2/2 3/3 4/4\nusemtl {back}\nf 5/1 6/2 7/3 8/4\n",
        mtl,
        **pictures,
    )
    return replace(mesh, vertices=mesh.vertices / 2)


def colours(view: View) -> set[str]:
    """Which of red, green and blue are the strongest channel of a fully covered pixel."""
    solid = view.rgba[view.rgba[..., 3] == 255][:, :3]
    return {"red green blue".split()[i] for i in np.unique(solid.argmax(1))}


def test_the_cubes_front_is_a_square_of_the_exact_size_and_depth() -> None:
    size = 64
    view = render(model(CUBE).fitted(), 0, 0, size)
    half = 1 / np.sqrt(3)
    reach = half / (DISTANCE - half) / np.tan(np.radians(FIELD_OF_VIEW) / 2) * size / 2
    centres = np.abs(np.arange(size) + 0.5 - size / 2)
    expected = (centres[:, None] < reach) & (centres[None] < reach)
    assert np.array_equal(view.mask, expected)
    assert colours(view) == {"red"}
    np.testing.assert_allclose(view.depth[20:44, 20:44], DISTANCE - half, rtol=1e-5)
    assert np.isinf(view.depth[~expected & (view.rgba[..., 3] == 0)]).all()
    assert not view.rgba[view.rgba[..., 3] == 0].any()


def test_azimuth_90_shows_the_side_and_45_shows_both() -> None:
    mesh = model(CUBE).fitted()
    assert colours(render(mesh, 90, 0)) == {"blue"}
    both = render(mesh, 45, 0)
    assert colours(both) == {"red", "blue"}
    # The camera has walked to +x: the front lies on the picture's left.
    columns = np.nonzero(both.rgba[48, :, 0] > 100)[0]
    assert columns.max() <= 48


def test_elevation_looks_down() -> None:
    front, top = "f 2 6 8 4", "f 3 4 8 7"
    top_is_red = CUBE.replace(top, "swap").replace(front, top).replace("swap", front)
    view = render(model(top_is_red).fitted(), 0, 40)
    rows = np.nonzero((view.rgba[..., 0] > 100).any(1))[0]
    assert len(rows)
    assert rows.max() < 48


def test_the_nearer_of_two_squares_hides_the_other_in_either_order() -> None:
    for azimuth, seen in ((0, "red"), (180, "blue")):
        view = render(two_squares("red", "blue", COLOURS), azimuth, 0, 32)
        middle = view.rgba[16, 16, :3]
        assert "red green blue".split()[middle.argmax()] == seen
        assert view.depth[16, 16] == pytest.approx(DISTANCE - 0.25)


def test_a_surface_is_seen_from_both_sides_with_the_same_light() -> None:
    mesh = model(f"mtllib cube.mtl\n{SQUARE.format(z=0)}usemtl red\nf 1 2 3 4\n").fitted()
    front, back = render(mesh, 0, 0, 32), render(mesh, 180, 0, 32)
    assert np.array_equal(front.rgba, back.rgba)
    assert front.mask.any()


def test_a_cut_out_shows_what_is_behind_and_has_its_depth() -> None:
    texture = Image.new("RGBA", (2, 2), (0, 255, 0, 255))
    texture.putpixel((0, 0), (0, 255, 0, 0))  # top left
    mtl = COLOURS + "newmtl leaf\nmap_Kd leaf.png\n"
    view = render(two_squares("leaf", "blue", mtl, leaf=texture), 0, 0, 64)
    assert view.rgba[26, 26].argmax() == 3
    assert view.rgba[26, 26, 2] > 100
    assert view.depth[26, 26] == pytest.approx(DISTANCE + 0.25)
    for row, column in ((26, 38), (38, 26), (38, 38)):
        assert view.rgba[row, column, 1] > 100
        assert view.rgba[row, column, 2] == 0
        assert view.depth[row, column] == pytest.approx(DISTANCE - 0.25)


def test_half_opaque_glass_mixes_with_what_is_behind() -> None:
    glass = COLOURS + "newmtl glass\nKd 1 0 0\nd 0.5\n"
    before = render(two_squares("glass", "blue", glass), 0, 0, 32).rgba[16, 16].astype(int)
    behind = render(two_squares("blue", "glass", glass), 0, 0, 32).rgba[16, 16]
    alone = render(two_squares("red", "blue", COLOURS), 0, 0, 32).rgba[16, 16]
    assert before[3] == 255
    assert behind[0] == 0
    assert before[0] == pytest.approx(alone[0] / 2, abs=1)
    twice = render(two_squares("glass", "glass", glass), 0, 0, 32).rgba[16, 16]
    assert twice[3] == pytest.approx(255 * 0.75, abs=1)
    assert twice[0] == pytest.approx(alone[0], abs=1)


def test_the_edge_of_a_pixel_half_covered_is_half_transparent() -> None:
    mesh = two_squares("red", "red", COLOURS)
    alphas = np.unique(render(mesh, 30, 20, 64).rgba[..., 3])
    assert set(alphas) <= {0, 64, 128, 191, 255}
    assert len(alphas) > 2


def test_a_texture_repeats_and_stands_upright() -> None:
    texture = Image.new("RGB", (1, 2), (255, 0, 0))
    texture.putpixel((0, 1), (0, 0, 255))  # the lower row
    obj = f"mtllib cube.mtl\n{SQUARE.format(z=0)}vt 0 0\nvt 2 0\nvt 2 2\nvt 0 2\nusemtl wall\n"
    obj += "f 1/1 2/2 3/3 4/4\n"
    view = render(model(obj, "newmtl wall\nmap_Kd wall.png\n", wall=texture).fitted(), 0, 0, 64)
    column = view.rgba[view.mask[:, 32], 32]
    runs = [int(c) for c in column[:, :3].argmax(1)]
    assert [a for a, b in zip(runs, [None, *runs], strict=False) if a != b] == [0, 2, 0, 2]


def test_a_missing_texture_is_named_and_the_plain_colour_stays() -> None:
    mesh = model(CUBE, COLOURS + "map_Kd C:\\art\\lost.png\n")
    assert mesh.missing == ("C:\\art\\lost.png",)
    assert colours(render(mesh.fitted(), 90, 0)) == {"blue"}


def test_a_texture_is_found_by_its_bare_name() -> None:
    mtl = COLOURS + "map_Kd D:\\art\\leaf.png\n"
    mesh = model(CUBE, mtl, leaf=Image.new("RGB", (2, 2), (0, 255, 0)))
    assert mesh.missing == ()
    assert mesh.materials[2].texture is not None


def test_an_undefined_material_is_named_and_grey() -> None:
    mesh = model(CUBE.replace("usemtl red", "usemtl gold"))
    assert mesh.missing == ("material gold",)
    assert mesh.materials[1].colour == GREY


@pytest.mark.parametrize(
    ("face", "message"),
    [
        ("f 1 2 9", r"box/cube\.obj:1\d: a face names vertex 9, but there are 8 so far"),
        ("f 1 2 0", "vertex 0"),
        ("f 1 -9 2", "vertex -9"),
        ("f 1/1 2/1 3/1", "texture coordinate 1, but there are 0"),
        ("f 1 two 3", "vertex 'two', not a number"),
    ],
)
def test_a_bad_face_is_refused_with_its_line(face: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(CUBE.replace("f 2 6 8 4", face))


def test_faces_may_count_backwards() -> None:
    backwards = CUBE.replace("f 2 6 8 4", "f -7 -3 -1 -5")
    assert np.array_equal(model(backwards).faces, model(CUBE).faces)


def test_no_faces_no_file_and_no_picture_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="box/cube.obj: the model has no faces"):
        model(CORNERS)
    with pytest.raises(FileNotFoundError, match="gone.obj"):
        read_obj("gone.obj", {}.get)
    files = {"a.obj": b"mtllib a.mtl\n", "a.mtl": b"newmtl x\nmap_Kd x.png\n", "x.png": b"no"}
    with pytest.raises(ValueError, match=r"x\.png: not a readable picture"):
        read_obj("a.obj", files.get)


def test_fitting_stretches_to_the_size_and_zoom_fills_the_picture() -> None:
    mesh = model(CUBE).fitted((2, 4, 2))
    extent = np.ptp(mesh.vertices, axis=0)
    np.testing.assert_allclose(extent / extent[0], [1, 2, 1])
    assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(1)
    views = [(float(a), 10.0) for a in range(0, 360, 30)]
    zoom = zoom_to_fit(mesh, views)
    shown = [np.argwhere(render(mesh, *view, size=96, zoom=zoom).mask) for view in views]
    low, high = min(s.min() for s in shown), max(s.max() for s in shown)
    assert 1 <= low <= 3 or 92 <= high <= 94
    assert low >= 1
    assert high <= 94


def test_depth_levels_run_from_near_to_empty() -> None:
    depth = np.array([DISTANCE - 1, DISTANCE, DISTANCE + 1, np.inf], np.float32)
    assert build_solids.depth_levels(depth).tolist() == [255, 128, 1, 0]


def test_turning_brings_the_side_to_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"cube.obj": CUBE.encode(), "cube.mtl": COLOURS.encode()}
    facts = {"model": "/cube.obj", "width": "2", "height": "2", "depth": "2"}
    solid = build_solids.Solid("cube", "toy", "here", 1)
    straight = build_solids.load(solid, facts, files.get)
    turned = build_solids.load(replace(solid, turn=90), facts, files.get)
    assert colours(render(straight, 0, 0)) == {"red"} == colours(render(turned, 90, 0))
    rotated = facts | {"modelRotation": "0 0 1 0 1 0 -1 0 0"}
    assert colours(render(build_solids.load(solid, rotated, files.get), 90, 0)) == {"red"}


def test_symmetry_is_seen_in_quarter_turns() -> None:
    def views(mesh: Mesh) -> dict[tuple[float, float], View]:
        return {view: render(mesh, *view, size=32) for view in build_solids.VIEWS}

    plain = model(CUBE, COLOURS.replace("Kd 1 0 0", "Kd 0 0 1")).fitted()
    assert build_solids.is_symmetric(views(plain))
    assert not build_solids.is_symmetric(views(model(CUBE).fitted()))


def test_the_sheets_hold_every_view_and_its_depth() -> None:
    solid = build_solids.Solid("toy cube", "toy", "here", 1)
    entries, line = build_solids._pack(solid, model(CUBE).fitted())
    assert line["facing"] == "front"
    assert not line["symmetric"]
    width = build_solids.CELL * len(line["views"])
    colour = Image.open(io.BytesIO(entries[line["file"]]))
    depth = np.asarray(Image.open(io.BytesIO(entries[line["depth"]])).convert("L")).astype(int)
    assert colour.size == (width, build_solids.CELL)
    assert colour.mode == "RGBA"
    assert depth.shape == (build_solids.CELL, width)
    first = render(
        model(CUBE).fitted(), 0, 10, zoom=zoom_to_fit(model(CUBE).fitted(), build_solids.VIEWS)
    )
    expected = build_solids.depth_levels(first.depth).astype(int)
    inside = first.mask & np.roll(first.mask, 4, 0) & np.roll(first.mask, -4, 0)
    assert np.abs(depth[:, : build_solids.CELL] - expected)[inside].mean() < 4


def test_the_catalogue_reads_numbers_and_escapes() -> None:
    text = "# note\nid=x\nname#1=10\\u20ac\nmodel#1=/a/b.obj\nname#12=Caf\xe9\n"
    assert build_solids.read_catalogue(text) == {
        1: {"name": "10€", "model": "/a/b.obj"},
        12: {"name": "Café"},
    }


def test_paths_are_found_whatever_their_case() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("Models/Wood.PNG", b"wood")
    fetch = build_solids._fetch_of(zipfile.ZipFile(buffer))
    assert fetch("/models/wood.png") == b"wood"
    assert fetch("models/none.png") is None


def test_the_package_must_be_there_and_be_the_pinned_one(tmp_path) -> None:
    package = {"name": "chairs", "version": "1-1", "file": "chairs.deb", "sha256": "0" * 64}
    with pytest.raises(FileNotFoundError, match="apt-get download chairs=1-1"):
        build_solids.open_libraries(tmp_path, package, ["A"])
    (tmp_path / "chairs.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(ValueError, match="expected 0000"):
        build_solids.open_libraries(tmp_path, package, ["A"])


def test_the_table_has_plain_unique_names() -> None:
    solids = build_solids.solids()
    names = [solid.concept for solid in solids]
    assert len(names) == len(set(names)) >= 220
    assert sum(solid.library == "BlendSwap-CC-0" for solid in solids) >= 100
    for solid in solids:
        assert solid.concept == solid.concept.lower()
        assert solid.concept.isascii()
        words = solid.concept.split()
        assert len(words) <= (5 if solid.category == "person" else 2), solid.concept
        assert solid.turn % 30 == 0
    models = [(solid.library, solid.model) for solid in solids]
    assert len(models) == len(set(models))


def test_a_name_used_twice_and_an_unknown_library_are_refused() -> None:
    entry = {"model": 1, "category": "toy"}
    libraries = {"A": {}, "B": {}}
    with pytest.raises(ValueError, match="'top' is in A and B"):
        build_solids.solids(
            {"libraries": libraries, "solids": {"A": {"top": entry}, "B": {"top": entry}}}
        )
    with pytest.raises(ValueError, match="unknown library 'C'"):
        build_solids.solids({"libraries": libraries, "solids": {"C": {"top": entry}}})
