"""`jaxrecon import-cameras`: images matched by name, cameras.json written whole, nothing lost."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxrecon.cli import main
from jaxrecon.pipelines.views import load_views

SIZE = (40, 30)
NAMES = ("view_2.png", "view_10.png")
ANGLES = (-0.3, 0.4)


def _matrix(angle):
    """OpenGL camera to world: two units before the origin, turned about y."""
    c, s = np.cos(angle), np.sin(angle)
    return [[c, 0, s, 2 * s], [0, 1, 0, 0], [-s, 0, c, 2 * c], [0, 0, 0, 1.0]]


def _expected(angle):
    """The same camera in our axes: R = flip R_gl^T, t = -R centre = (0, 0, 2)."""
    T = np.array(_matrix(angle))
    return np.diag([1, -1, -1]) @ T[:3, :3].T, [0, 0, 2]


def _transforms(path, names=NAMES, **fields):
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": _matrix(angle)}
        for name, angle in zip(names, ANGLES * len(names), strict=False)
    ]
    document = {"fl_x": 50.0, "w": SIZE[0], "h": SIZE[1], "frames": frames, **fields}
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def views(tmp_path):
    """A folder with two photographs."""
    folder = tmp_path / "subject"
    folder.mkdir()
    for name in NAMES:
        Image.new("RGB", SIZE, (90, 120, 60)).save(folder / name)
    return folder


def _run(capsys, *argv, code=0):
    """Exit code as told; stdout, or stderr of an error."""
    assert main.main(["import-cameras", *(str(a) for a in argv)]) == code
    captured = capsys.readouterr()
    if code == 2:
        assert captured.err.startswith("error: ") and "Traceback" not in captured.err
    return captured.err if code else captured.out


def test_transforms_become_cameras_that_load(capsys, tmp_path, views):
    source = _transforms(tmp_path / "transforms.json", NAMES[::-1])
    text = _run(capsys, source, "--views", views)
    assert "2 views, transforms: view_2.png, view_10.png" in text and "unit is unknown" in text
    loaded = load_views(views)
    assert loaded.names == NAMES and loaded.units == "unknown"  # natural order, not the file's
    for i, angle in enumerate(ANGLES[::-1]):
        R, t = _expected(angle)
        np.testing.assert_allclose(loaded.cameras.R[i], R, atol=1e-12)
        np.testing.assert_allclose(loaded.cameras.t[i], t, atol=1e-12)
        np.testing.assert_allclose(loaded.cameras.K[i], [[50, 0, 20], [0, 50, 15], [0, 0, 1]])


def test_units_and_scale(capsys, tmp_path, views):
    source = _transforms(tmp_path / "transforms.json")
    text = _run(capsys, source, "--views", views, "--units", "millimetres", "--scale", "250")
    assert "unknown" not in text
    loaded = load_views(views)
    assert loaded.units == "millimetres"
    np.testing.assert_allclose(loaded.cameras.t, [[0, 0, 500]] * 2, atol=1e-9)
    for scale in ("0", "-1", "inf", "nan"):
        argv = (source, "--views", views, "--overwrite", "--scale", scale)
        assert "positive number" in _run(capsys, *argv, code=2)


def test_an_existing_file_is_never_lost(capsys, tmp_path, views):
    source = _transforms(tmp_path / "transforms.json")
    target = views / "cameras.json"
    former = {"views": [{"file": NAMES[1], "expression": 3}, {"file": NAMES[0]}]}
    target.write_text(json.dumps(former))
    assert "--overwrite" in _run(capsys, source, "--views", views, code=2)
    assert json.loads(target.read_text()) == former
    text = _run(capsys, source, "--views", views, "--overwrite")
    assert "cameras.json.bak" in text
    assert json.loads((views / "cameras.json.bak").read_text()) == former
    written = json.loads(target.read_text())["views"]
    assert [v["file"] for v in written] == list(NAMES[::-1])  # the former order
    assert written[0]["expression"] == 3 and "expression" not in written[1]
    target.write_text("{ broken")
    _run(capsys, source, "--views", views, "--overwrite")
    assert (views / "cameras.json.bak1").read_text() == "{ broken"
    assert json.loads((views / "cameras.json.bak").read_text()) == former


def test_a_failure_leaves_the_folder_as_it_was(capsys, tmp_path, views):
    target = views / "cameras.json"
    target.write_text('{"views": []}')
    source = _transforms(tmp_path / "transforms.json", k1=0.5)
    error = _run(capsys, source, "--views", views, "--overwrite", code=2)
    assert "lens distortion" in error and "image_undistorter" in error
    assert target.read_text() == '{"views": []}'
    assert sorted(p.name for p in views.iterdir()) == sorted([*NAMES, "cameras.json"])


def test_a_little_distortion_and_scaled_images_are_told(capsys, tmp_path, views):
    source = _transforms(tmp_path / "transforms.json", w=80, h=60, fl_x=100.0, k1=0.01)
    text = _run(capsys, source, "--views", views)
    assert "scaled from images of 80 x 60 to 40 x 30" in text
    assert "lens distortion of at most 0." in text
    np.testing.assert_allclose(load_views(views).cameras.K[0, :2, :2], [[50, 0], [0, 50]])


def test_images_of_another_shape_are_refused(capsys, tmp_path, views):
    source = _transforms(tmp_path / "transforms.json", w=60, h=60)
    assert "has 40 x 30" in _run(capsys, source, "--views", views, code=2)
    source = _transforms(tmp_path / "transforms.json", w=30, h=40)
    assert "EXIF" in _run(capsys, source, "--views", views, code=2)


def test_names_match_by_path_file_name_or_stem(capsys, tmp_path, views):
    source = _transforms(tmp_path / "transforms.json", ("view_2", "train/view_10.JPG"))
    assert "2 views" in _run(capsys, source, "--views", views)
    # a path of the folder goes before a file name
    (views / "images").mkdir()
    Image.new("RGB", SIZE).save(views / "images" / "view_2.png")
    source = _transforms(tmp_path / "transforms.json")
    text = _run(capsys, source, "--views", views, "--overwrite")
    assert "images/view_2.png" in text and "no camera for view_2.png" in text
    assert load_views(views).cameras.K.shape == (2, 3, 3)


def test_ambiguous_and_absent_names_are_refused(capsys, tmp_path, views):
    source = _transforms(tmp_path / "transforms.json", ("a/view_2.png", "b/view_2.png"))
    assert "both fit the image view_2.png" in _run(capsys, source, "--views", views, code=2)
    Image.new("RGB", SIZE).save(views / "view_2.jpg")
    source = _transforms(tmp_path / "transforms.json", ("view_2", "view_10"))
    assert "view_2.jpg, view_2.png" in _run(capsys, source, "--views", views, code=2)
    source = _transforms(tmp_path / "transforms.json", ("x.png", "y.png"))
    error = _run(capsys, source, "--views", views, code=2)
    assert "images/x.png, images/y.png" in error
    source = _transforms(tmp_path / "transforms.json", ("../../view_2.png", "/etc/y.png"))
    assert "1 views" in _run(capsys, source, "--views", views)  # only the file name counts


def test_what_is_left_out_is_told(capsys, tmp_path, views):
    source = _transforms(tmp_path / "transforms.json", ("view_2.png", "view_7.png", "view_8.png"))
    text = _run(capsys, source, "--views", views)
    assert "no camera for view_10.png: left out" in text
    assert "2 cameras have no image here: images/view_7.png, images/view_8.png" in text
    assert load_views(views).names == ("view_2.png",)


def test_landmarks_stay_with_their_views(capsys, tmp_path, views):
    (views / "landmarks.json").write_text(json.dumps({"landmarks2d": [[[1, 1]] * 68] * 2}))
    source = _transforms(tmp_path / "transforms.json", NAMES[:1])
    error = _run(capsys, source, "--views", views, code=2)
    assert "landmarks of 2 views; there are cameras for 1" in error
    assert not (views / "cameras.json").exists()
    _run(capsys, _transforms(tmp_path / "transforms.json"), "--views", views)
    assert load_views(views).landmarks2d.shape == (2, 68, 2)


def _colmap(folder, names=NAMES):
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text("1 SIMPLE_PINHOLE 40 30 50 20 15\n")
    lines = [f"{i + 1} 1 0 0 0 0 0 {2 + i} 1 {name}\n\n" for i, name in enumerate(names)]
    (folder / "images.txt").write_text("".join(lines))
    return folder


def test_colmap_of_a_project(capsys, tmp_path, views):
    _colmap(tmp_path / "project" / "sparse" / "0")
    _colmap(tmp_path / "project" / "sparse" / "1", NAMES[:1])
    text = _run(capsys, tmp_path / "project", "--views", views)
    assert "2 views, colmap" in text and "others (1)" in text
    np.testing.assert_allclose(load_views(views).cameras.t, [[0, 0, 2], [0, 0, 3]])
    one = tmp_path / "project" / "sparse" / "1" / "images.txt"
    text = _run(capsys, one, "--views", views, "--overwrite")
    assert "1 views, colmap" in text and "others" not in text


def _idr(path, numbers):
    K = np.array([[50.0, 0, 19.5], [0, 50.0, 14.5], [0, 0, 1]])  # whole-numbered pixel centres
    world = {f"world_mat_{i}": K @ np.eye(3, 4) + [[0, 0, 0, i + 1]] * 3 for i in numbers}
    np.savez(path, **world)
    return path


def test_idr_by_order_or_by_number(capsys, tmp_path, views):
    source = _idr(tmp_path / "cameras.npz", (0, 1))
    assert "2 views, idr" in _run(capsys, source, "--views", views)
    np.testing.assert_allclose(load_views(views).cameras.K[0, :2, 2], (20, 15))
    numbered = load_views(views).cameras.t
    _idr(source, (0, 1, 2, 10))  # of which the folder has numbers 2 and 10
    text = _run(capsys, tmp_path, "--kind", "idr", "--views", views, "--overwrite")
    assert "2 cameras have no image here: 0, 1" in text
    # P's last column is (i + 1) (1, 1, 1), so that t is a multiple of that of i = 0
    np.testing.assert_allclose(load_views(views).cameras.t[0], 3 * numbered[0], atol=1e-12)
    _idr(source, (0, 1, 2))
    error = _run(capsys, source, "--views", views, "--overwrite", code=2)
    assert "3 cameras; the folder has 2 images" in error


def test_sources_that_are_none_or_several(capsys, tmp_path, views):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no cameras" in _run(capsys, empty, "--views", views, code=2)
    assert "no such file" in _run(capsys, tmp_path / "absent", "--views", views, code=2)
    assert "no folder" in _run(capsys, empty, "--views", tmp_path / "absent", code=2)
    _transforms(empty / "transforms.json")
    _idr(empty / "cameras.npz", (0, 1))
    assert "--kind transforms|idr" in _run(capsys, empty, "--views", views, code=2)
    assert "of kind colmap" in _run(capsys, empty, "--views", views, "--kind", "colmap", code=2)
    assert "2 views, idr" in _run(capsys, empty, "--views", views, "--kind", "idr")
    broken = tmp_path / "broken.json"
    broken.write_text("[1, 2]")
    error = _run(capsys, broken, "--views", views, "--overwrite", code=2)
    assert "broken.json cannot be read as JSON" in error


def test_a_turned_photograph_is_told(capsys, tmp_path, views):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.new("RGB", SIZE).save(views / "view_2.png", exif=exif)
    text = _run(capsys, _transforms(tmp_path / "transforms.json"), "--views", views)
    assert "view_2.png has an EXIF rotation" in text and "view_10.png has" not in text
