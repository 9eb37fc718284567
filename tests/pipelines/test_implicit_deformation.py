"""A views folder in, meshes, GLB, fit.json, state and report out; with an untrained, tiny prior of
the synthetic head, so that only the plumbing is on trial.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from data_pipelines.head_points import HEAD_SCALE_MM
from data_pipelines.render_head import render_subject
from jaxrecon.errors import InputError
from jaxrecon.geometry.mesh_io import load_mesh
from jaxrecon.interop.weights import load_weights, save_weights
from jaxrecon.pipelines import implicit_deformation as pipeline
from jaxrecon.pipelines import implicit_deformation_inputs as inputs
from jaxrecon.pipelines.implicit_deformation import Options, load_prior, reconstruct_folder
from jaxrecon.pipelines.views import load_views
from tests.pipelines.toy_prior import FIT, VIEWS

FILES = {"mesh.ply", "mesh.glb", "fit.json", "state.npz", "report.html"}


@pytest.fixture(scope="module")
def folder(toy_model, tmp_path_factory):
    """Three views, of two expressions."""
    return render_subject(toy_model, 3, tmp_path_factory.mktemp("views") / "anna", VIEWS)


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        preset = pipeline.Preset(FIT, resolution=32)
        patch.setitem(pipeline.PRESETS, "fast", preset)
        yield


def options(weights, **changes) -> Options:
    return Options(weights=weights, **{"report": False, "detector": "none"} | changes)


@pytest.fixture(scope="module")
def done(folder, toy_weights, tmp_path_factory):
    """The whole command, with report: (output folder, what it returned)."""
    out = tmp_path_factory.mktemp("out")
    return out / "anna", reconstruct_folder(folder, out, options(toy_weights, report=True, seed=4))


def test_every_file_is_there(done):
    out, report = done
    names = {p.name for p in out.iterdir()}
    assert names == FILES | {f"mesh_view_{i:03d}.ply" for i in range(3)}
    assert report == out / "report.html" and b"anna" in report.read_bytes()


def _refuse(token):
    raise AssertionError(f"{token} in JSON")


def test_the_record_is_strict_json_and_complete(done):
    out, _ = done
    record = json.loads((out / "fit.json").read_text(), parse_constant=_refuse)
    assert record["system"] == "implicit_deformation" and record["units"] == "millimetres"
    assert record["views"] == [f"view_{i:03d}.png" for i in range(3)]
    assert record["expression"] == [0, 0, 1] and record["config"]["expressions"] == 2
    assert record["config"]["seed"] == 4 and record["resolution"] == 32
    assert len(record["losses"]["total"]) == 6
    assert set(record["seconds"]) >= {"landmarks", "switch", "weights", "residuals", "extraction"}
    assert set(record["scores"]) == {"0", "1"}
    assert record["landmark_stage_error_pixels"] < 1.0  # the toy's landmarks are exact
    scale = record["S_canonical_world"]["scale"]
    np.testing.assert_allclose(1 / scale, HEAD_SCALE_MM, rtol=0.1)


def test_meshes_lie_in_the_world_of_the_cameras(done, folder):
    """The untrained head is a ball: where the head is, in millimetres, and seen by every camera."""
    out, _ = done
    mesh = load_mesh(out / "mesh.ply")
    truth = load_mesh(folder / "gt.ply")
    centre = mesh.vertices.mean(0)
    assert np.linalg.norm(centre - truth.vertices.mean(0)) < 40
    size = np.ptp(mesh.vertices, axis=0)
    assert (size > 120).all() and (size < 250).all()
    views = load_views(folder)
    for i in range(3):
        x = mesh.vertices @ views.cameras.R[i].T + views.cameras.t[i]
        pixels = (x @ views.cameras.K[i].T)[:, :2] / x[:, 2:]
        inside = np.argwhere(views.mask[i] > 0)[:, ::-1]
        assert np.linalg.norm(pixels.mean(0) - inside.mean(0)) < 8
    assert mesh.colours.min() >= 0 and mesh.colours.max() <= 1
    import trimesh

    glb = trimesh.load(out / "mesh.glb", force="mesh")
    np.testing.assert_allclose(np.ptp(glb.vertices, axis=0), size / 1000, rtol=1e-4)


def test_each_view_has_the_mesh_of_its_expression(done):
    out, _ = done
    first, second, third = ((out / f"mesh_view_{i:03d}.ply").read_bytes() for i in range(3))
    assert first == second == (out / "mesh.ply").read_bytes() != third


def test_the_state_is_plain_arrays(done, toy_weights):
    out, _ = done
    with np.load(out / "state.npz", allow_pickle=False) as state:
        assert state["z_id"].shape == (6,) and state["z_exp"].shape == (2, 13)
        assert state["variables/w_exp"].shape == (2, 13)
        assert state["S_canonical_world/R"].shape == (3, 3)
        tuned = {k: state[k] for k in state.files if k.startswith("rendering/")}
    tree, _ = load_weights(toy_weights)
    start = tree["params"]["rendering"]["layer_0"]["kernel"]
    assert 0 < np.abs(tuned["rendering/layer_0/kernel"] - start).max() < 0.1


def test_seeds_are_deterministic(done, folder, toy_weights, tmp_path):
    again = reconstruct_folder(folder, tmp_path, options(toy_weights, seed=4))
    assert again == tmp_path / "anna" / "mesh.ply" and not (again.parent / "report.html").exists()
    for name in ("mesh.ply", "mesh_view_002.ply"):
        assert (again.parent / name).read_bytes() == (done[0] / name).read_bytes()
    other = reconstruct_folder(folder, tmp_path, options(toy_weights, seed=5))
    assert other.read_bytes() != (done[0] / "mesh.ply").read_bytes()


def test_stages_are_reported_as_they_go(folder, toy_weights):
    seen = []
    views = load_views(folder, need=("cameras", "masks", "landmarks"))
    found = pipeline.reconstruct(
        views, options(toy_weights), progress=lambda *news: seen.append(news)
    )
    assert [(s, d, t) for s, d, t, _ in seen] == [
        ("switch", 2, 6), ("weights", 4, 6), ("residuals", 6, 6)
    ]  # fmt: skip
    assert sorted(found.meshes) == [0, 1] and found.warnings == ()
    assert all(np.isfinite(loss) for *_, loss in seen)


def test_mouths_are_masked(folder):
    views = load_views(folder)
    masks = inputs.mouth_masks(views)
    for i in range(3):
        mouth = views.landmarks2d[i, 48:68]
        column, row = np.floor(mouth.mean(0)).astype(int)
        seen = views.landmark_weights[i, 48:68] > 0
        assert (masks[i].sum() > 0) == (seen.sum() >= 3)
        if seen.all():
            assert masks[i][row, column] == 1 and 0 < masks[i].mean() < 0.1
    hidden = dataclasses.replace(views, landmark_weights=np.zeros_like(views.landmark_weights))
    assert inputs.mouth_masks(hidden).sum() == 0


# ---------------------------------------------------------------- bad input


@pytest.fixture
def spoiled(folder, tmp_path):
    """A copy to spoil, and an output folder that holds an older result."""
    copy = tmp_path / "anna"
    shutil.copytree(folder, copy)
    old = tmp_path / "out" / "anna"
    old.mkdir(parents=True)
    for name in FILES:
        (old / name).write_text(f"older {name}")
    return copy, tmp_path / "out"


def _drop_landmarks(folder):
    (folder / "landmarks.json").unlink()


def _drop_cameras(folder):
    (folder / "cameras.json").unlink()


def _hide_landmarks(folder):
    document = json.loads((folder / "landmarks.json").read_text())
    document["visible"] = [[j < 19 for j in range(68)]] * 3
    (folder / "landmarks.json").write_text(json.dumps(document))


def _collapse_landmarks(folder):
    document = json.loads((folder / "landmarks.json").read_text())
    document["landmarks2d"][1] = [[30.0, 30.0]] * 68
    (folder / "landmarks.json").write_text(json.dumps(document))


def _wrong_unit(folder):
    document = json.loads((folder / "cameras.json").read_text())
    document["units"] = "metres"  # the numbers are millimetres
    (folder / "cameras.json").write_text(json.dumps(document))


def _drop_alpha(folder):
    from PIL import Image

    for path in folder.glob("view_*.png"):
        Image.open(path).convert("RGB").save(path)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (_drop_landmarks, "landmarks"),
        (_hide_landmarks, "19"),
        (_drop_cameras, "cameras"),
        (_drop_alpha, "masks"),
        (_collapse_landmarks, "within a few pixels"),
        (_wrong_unit, "no head fits the landmarks"),
    ],
)
def test_bad_folders_are_refused_and_older_results_stay(spoiled, toy_weights, spoil, word):
    folder, out = spoiled
    spoil(folder)
    with pytest.raises(InputError, match=word):
        reconstruct_folder(folder, out, options(toy_weights, cameras="given"))
    assert {p.name: p.read_text() for p in (out / "anna").iterdir()} == {
        name: f"older {name}" for name in FILES
    }


@pytest.mark.parametrize(
    "bad",
    [{"cameras": "guess"}, {"preset": "best"}, {"resolution": 30}, {"resolution": 4}],
    ids=str,
)
def test_bad_options_are_refused(bad):
    with pytest.raises(InputError):
        Options(**bad)


def test_bad_weights_are_refused(toy_weights, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_prior(tmp_path / "absent")
    tree, header = load_weights(toy_weights)
    del header["format"]

    def refused(tree, header, match):
        save_weights(tmp_path / "bad", tree, header)
        with pytest.raises(InputError, match=match):
            load_prior(tmp_path / "bad")

    refused(tree, header | {"system": "pifu"}, "implicit_deformation")
    wider = header | {"network": header["network"] | {"features": 9}}
    refused(tree, wider, "do not fit")
    refused(tree, header | {"network": {"width": 3}}, "network")
    latent = {k: v for k, v in tree["latent"].items() if k != "id_mean"}
    refused(tree | {"latent": latent}, header, "latent")


def test_units_of_the_cameras_set_the_scale(folder, toy_weights):
    views, prior = load_views(folder), load_prior(toy_weights)
    assert float(inputs.view_data(views, prior).unit) == 150.0
    metres = dataclasses.replace(views, units="metres")
    np.testing.assert_allclose(float(inputs.view_data(metres, prior).unit), 0.15)
    unknown = dataclasses.replace(views, units=None)
    assert float(inputs.view_data(unknown, prior).unit) == 0.0
