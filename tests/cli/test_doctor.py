"""`jaxrecon doctor`: what is installed, pictures of a views folder, and remarks on what is odd."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

import jaxrecon
from jaxrecon.cli import doctor, main
from jaxrecon.pipelines import detections, views_drawing
from jaxrecon.pipelines.views import load_views
from jaxrecon.pipelines.views_frusta import camera_centres, looked_at
from jaxrecon.pipelines.views_overlay import reproject
from jaxrecon.pipelines.views_remarks import eye_distance, missing, remarks
from tests.pipelines.fake_detector import Truth, bare, nothing

DEMO = pathlib.Path(jaxrecon.__file__).parent / "assets" / "samples" / "demo"
# left and right of the iBUG order: jaw, brows, nostrils, eyes, lips
MIRROR = [
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65,
]  # fmt: skip


@pytest.fixture(autouse=True)
def blind(monkeypatch):
    """A detector that finds nothing, and no network."""
    monkeypatch.setattr(detections, "own_face_detector", lambda: nothing)


@pytest.fixture
def views(tmp_path):
    """A copy of the sample without its mesh: three views of a face, consistent to a pixel."""
    folder = tmp_path / "subject"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("*.ply"))
    return folder


def _edit(folder, name, change):
    document = json.loads((folder / name).read_text())
    change(document)
    (folder / name).write_text(json.dumps(document))


def _remarks(folder):
    loaded = load_views(folder)
    return " | ".join(remarks(loaded, reproject(loaded)))


def test_doctor_shows_the_environment(capsys):
    assert main.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "jax 0." in text and "devices:  8 cpu" in text and "assets:" in text


def test_doctor_survives_a_broken_backend(monkeypatch):
    def fail():
        raise RuntimeError("no backend")

    monkeypatch.setattr("jax.devices", fail)
    assert "no backend" in doctor._devices()


def test_doctor_refuses(capsys, views, tmp_path):
    for argv, message in (
        ((tmp_path / "absent",), "no such folder"),
        (("--out", tmp_path), "--out without VIEWS"),
        ((views, "--out", views / "view_000.png"), "file"),
    ):
        assert main.main(["doctor", *map(str, argv)]) == 2
        assert message in capsys.readouterr().err
    (views / "cameras.json").write_text("{")
    assert main.main(["doctor", str(views)]) == 2
    assert "cannot be read as JSON" in capsys.readouterr().err


# ---------------------------------------------------------------- pictures


def test_doctor_draws_a_consistent_folder(capsys, views, tmp_path):
    ignored = np.zeros((256, 256), np.uint8)
    ignored[:40] = 255
    Image.fromarray(ignored).save(views / "view_000_ignore.png")
    out = tmp_path / "pictures"
    assert main.main(["doctor", str(views), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "look at this" not in text and "for a fit" not in text and "0.00" in text
    assert "eyes: about 93" in text
    loaded = load_views(views)
    for i in range(3):
        picture = np.asarray(Image.open(out / f"doctor_view_{i:03d}.png"))
        assert picture.shape == (1024 + 28, 1024, 3)
        # magenta where the mask changes, and nowhere else
        marked = (picture[:1024] == (255, 0, 255)).all(axis=-1)
        inside = loaded.mask[i] > 0
        edge = inside ^ np.roll(inside, 1, 1)
        near = edge | np.roll(edge, 1, 1) | np.roll(edge, -1, 1) | np.roll(edge, 1, 0)
        near |= np.roll(edge, -1, 0) | (inside ^ np.roll(inside, 1, 0))
        rows, columns = np.nonzero(marked)
        assert marked.sum() > 2000
        assert near[rows // 4, columns // 4].mean() > 0.95
        # a disc at every seen landmark: green beneath the blue cross
        for u, v in 4 * loaded.landmarks2d[i][loaded.landmark_weights[i] > 0]:
            patch = picture[round(v) - 4 : round(v) + 5, round(u) - 4 : round(u) + 5].astype(int)
            assert (abs(patch - (0, 200, 0)).sum(-1) < 60).any()
    hatched = np.asarray(Image.open(out / "doctor_view_000.png"))[100:150, :1024]
    plain = np.asarray(Image.open(out / "doctor_view_001.png"))[100:150, 20:100]
    assert (hatched == 90).all(axis=-1).any() and (hatched == 191).all(axis=-1).any()
    assert (plain == 255).all()


def test_the_cameras_are_drawn_where_they_are(capsys, views, tmp_path):
    assert main.main(["doctor", str(views), "--out", str(tmp_path)]) == 0
    assert "doctor_cameras.png" in capsys.readouterr().out
    picture = np.asarray(Image.open(tmp_path / "doctor_cameras.png")).astype(int)
    assert picture.shape == (1340, 1280, 3)
    above = picture[30:670, :640]
    # view 1 looks from the front, 0 from the subject's right, 2 from its left, all from below
    # in the panel from above, where the face looks down the page
    places = [
        np.argwhere(abs(above - colour).sum(-1) < 30).mean(0)
        for colour in ((0, 114, 178), (213, 94, 0), (0, 158, 115))
    ]
    face = np.argwhere(abs(above - 60).sum(-1) < 30).mean(0)
    assert all(place[0] > face[0] + 100 for place in places)
    assert places[0][1] + 100 < places[1][1] < places[2][1] - 100
    # axes have their colours in every panel
    for panel in (above, picture[30:670, 640:], picture[700:, :640], picture[700:, 640:]):
        assert (panel == (230, 0, 0)).all(-1).any() or (panel == (0, 60, 230)).all(-1).any()


def test_ground_truth_and_an_empty_world_are_drawn(tmp_path, capsys):
    folder = tmp_path / "subject"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("landmarks.json"))
    assert main.main(["doctor", str(folder), "--out", str(tmp_path / "a")]) == 0
    (folder / "gt.ply").unlink()
    assert main.main(["doctor", str(folder), "--out", str(tmp_path / "b")]) == 0
    a, b = (np.asarray(Image.open(tmp_path / d / "doctor_cameras.png")).astype(int) for d in "ab")
    grey = [(abs(p - 205).sum(-1) < 40).sum() for p in (a, b)]
    assert grey[0] > grey[1] + 1000
    (folder / "gt.ply").write_text("broken")
    assert main.main(["doctor", str(folder), "--out", str(tmp_path / "c")]) == 0
    c = np.asarray(Image.open(tmp_path / "c" / "doctor_cameras.png"))
    assert (c == b).all()


def test_doctor_of_photographs_without_cameras(capsys, views, tmp_path):
    (views / "cameras.json").unlink()
    assert main.main(["doctor", str(views), "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "for a fit: no camera poses" in text and "--cameras estimate" in text
    assert "doctor_cameras.png" not in text and (tmp_path / "doctor_view_002.png").is_file()


def test_doctor_of_one_photo(capsys, views):
    (views / "photo").mkdir()
    Image.new("RGB", (60, 40)).save(views / "photo" / "me.jpg")
    assert main.main(["doctor", str(views / "photo" / "me.jpg")]) == 0
    text = capsys.readouterr().out
    assert "one view only" in text
    assert text.count("a fit needs") == 2  # masks and landmarks
    with Image.open(text.strip().splitlines()[-1].removeprefix("picture: ")) as picture:
        assert picture.size == (1024, 683 + 28)


def test_doctor_draws_what_is_not_given(capsys, views, tmp_path, monkeypatch):
    """Found, drawn and said: a folder of photographs alone looks like the one with everything."""
    detector = Truth(load_views(DEMO), hair=20)
    monkeypatch.setattr(detections, "own_face_detector", lambda: detector)
    plain = bare(DEMO, tmp_path / "plain", cameras=True)
    out = tmp_path / "out"
    assert main.main(["doctor", str(plain), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "not given, so a detector looks for it: view_000.png (landmarks, mask)" in text
    assert "look at this: landmarks were not given; found by a fake: view_000.png (mean" in text
    assert "look at this: masks were not given; found by a fake" in text
    assert "a fit needs" not in text and "eyes: about 93" in text
    names = {p.name for p in out.iterdir()}
    kinds = ("doctor_view", "doctor_found")
    assert {f"{k}_{i:03d}.png" for k in kinds for i in range(3)} <= names
    assert main.main(["doctor", str(views), "--out", str(tmp_path / "given")]) == 0
    a, b = (np.asarray(Image.open(d / "doctor_view_001.png")) for d in (out, tmp_path / "given"))
    green = [(p[:1024] == (0, 200, 0)).all(-1) for p in (a, b)]
    assert green[0].sum() > 500 and (green[0] == green[1]).mean() > 0.999
    assert (a[1024:] != b[1024:]).any()  # the legend says so


def test_doctor_says_that_nothing_was_found(capsys, views, tmp_path):
    Image.open(views / "view_001.png").convert("RGB").save(views / "view_001.png")
    assert main.main(["doctor", str(views), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "a detector looks for it: view_001.png (mask)" in text
    assert "view_001.png: the face at the given landmarks was not parsed" in text
    assert "2 views" in text


def test_labels_keep_clear_of_each_other():
    taken = []
    places = [views_drawing.label_place((50, 50), (16, 12), taken) for _ in range(8)]
    for i, (x, y) in enumerate(places):
        assert abs(x - 50) >= 8 or abs(y - 50) >= 6
        for u, v in places[:i]:
            assert abs(x - u) >= 16 or abs(y - v) >= 12
    x, y = views_drawing.label_place((50, 50), (16, 12), [], away=(50, 90))
    assert x == pytest.approx(50) and y < 50


# ---------------------------------------------------------------- remarks


def test_the_sample_and_the_shared_subjects_are_unremarkable(shared):
    for folder in (DEMO, *sorted((shared / "data" / "faceviews").iterdir())):
        views = load_views(folder)
        reprojection = reproject(views)
        assert remarks(views, reprojection) == [] and missing(views) == []
        assert 70 < eye_distance(reprojection) < 110


def test_points_are_where_the_cameras_look(views):
    loaded = load_views(views)
    reprojection = reproject(loaded)
    known = np.isfinite(reprojection.points[0, :, 0])
    truth = json.loads((views / "landmarks.json").read_text())["landmarks3d"][0]
    np.testing.assert_allclose(reprojection.points[0, known], np.array(truth)[known], atol=0.05)
    centres = camera_centres(loaded)
    x = np.einsum("vij,vj->vi", loaded.cameras.R, centres) + loaded.cameras.t
    np.testing.assert_allclose(x, 0, atol=1e-5)  # the file's R has nine digits
    # without landmarks, the optical axes meet near the face
    assert np.linalg.norm(looked_at(loaded, None) - looked_at(loaded, reprojection)) < 80


def _scaled(factor):
    def change(document):
        for view in document["views"]:
            view["t"] = [factor * x for x in view["t"]]

    return change


@pytest.mark.parametrize(
    ("units", "factor", "message"),
    [
        ("millimetres", 0.001, "says millimetres, but the outer corners of the eyes are 0.0933"),
        ("millimetres", 0.001, ": metres?"),
        ("millimetres", 0.1, ": centimetres?"),
        ("metres", 1.0, ": millimetres?"),
        ("millimetres", 0.03, "units: unknown"),
        ("millimetres", 1.0, None),
        ("metres", 0.001, None),
        ("unknown", 0.03, None),
    ],
)
def test_wrong_units(views, units, factor, message):
    _edit(views, "cameras.json", _scaled(factor))
    _edit(views, "cameras.json", lambda d: d.update(units=units))
    text = _remarks(views)
    assert text == "" if message is None else message in text


def test_swapped_sides(views):
    def swap(document):
        marks, visible = np.array(document["landmarks2d"]), np.array(document["visible"])
        document["landmarks2d"] = marks[:, MIRROR].tolist()
        document["visible"] = visible[:, MIRROR].tolist()

    _edit(views, "landmarks.json", swap)
    text = _remarks(views)
    assert "left and right landmarks are swapped" in text and "pixels from where" not in text


def test_a_hollow_face(views):
    """Pictures of the face mirrored in depth by cameras mirrored likewise: no error in pixels."""
    loaded = load_views(views)
    truth = np.array(json.loads((views / "landmarks.json").read_text())["landmarks3d"][0])
    hollow = truth * (1, 1, -1)
    marks = []
    for K, R, t in zip(loaded.cameras.K, loaded.cameras.R, loaded.cameras.t, strict=True):
        p = (hollow @ R.T + t) @ K.T
        marks.append((p[:, :2] / p[:, 2:]).tolist())
    _edit(views, "landmarks.json", lambda d: d.update(landmarks2d=marks))
    text = _remarks(views)
    assert "hollow face" in text and "pixels from where" not in text


def _back_to_front(document):
    """Turn every camera about its own vertical axis: it looks away."""
    for view in document["views"]:
        turn = np.diag([-1.0, 1.0, -1.0])
        view["R"] = (turn @ view["R"]).tolist()
        view["t"] = (turn @ view["t"]).tolist()


def _same_viewpoint(document):
    for name in ("R", "t", "K"):
        document["views"][1][name] = document["views"][0][name]


@pytest.mark.parametrize(
    ("name", "change", "messages"),
    [
        (
            "cameras.json",
            lambda d: d["views"][1].update(R=d["views"][0]["R"]),
            ["pixels from where the cameras put", "R camera from world"],
        ),
        ("landmarks.json", lambda d: d["landmarks2d"].reverse(), ["order of the views"]),
        ("cameras.json", _back_to_front, ["views 0, 1, 2: the camera looks away"]),
        ("cameras.json", _same_viewpoint, ["views 0 and 1 (0.0) are less than 3 degrees apart"]),
        (
            "cameras.json",
            lambda d: d["views"][0]["K"][0].__setitem__(2, 900.0),
            ["view 0 (view_000.png): the principal point (900"],
        ),
        (
            "landmarks.json",
            lambda d: d["visible"][2].__setitem__(slice(0, 60), [False] * 60),
            ["view 2: fewer than 20 landmarks"],
        ),
        ("cameras.json", lambda d: d["views"].__delitem__(slice(1, None)), ["one view only"]),
        (
            "landmarks.json",
            lambda d: d["landmarks2d"][0].__setitem__(30, [-5.0, 3.0]),
            ["1 seen landmarks lie outside"],  # the loader's own warning
        ),
    ],
)
def test_what_is_odd_is_told(views, name, change, messages):
    _edit(views, name, change)
    if name == "cameras.json":
        count = len(json.loads((views / name).read_text())["views"])
        for key in ("landmarks2d", "visible"):
            _edit(views, "landmarks.json", lambda d, key=key: d.update({key: d[key][:count]}))
    text = _remarks(views)
    assert all(message in text for message in messages), text


def test_a_mask_of_something_else(views):
    mask = np.zeros((256, 256), np.uint8)
    mask[200:] = 255
    Image.fromarray(mask).save(views / "view_001_mask.png")
    text = _remarks(views)
    assert "view 1 (view_001.png): the mask holds" in text and "view 0" not in text


def test_lenses_without_poses(capsys, views, tmp_path):
    def forget(document):
        for view in document["views"]:
            del view["R"], view["t"]

    _edit(views, "cameras.json", forget)
    assert main.main(["doctor", str(views), "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "with the focal lengths of cameras.json" in text
    assert "18.9" in text  # field of view, from K alone
