"""A views folder loads as its files say, and everything wrong with one is said in one message."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxrecon.errors import InputError
from jaxrecon.pipelines.views import load_views
from tests.pipelines.views_folder import (
    HEIGHT,
    WIDTH,
    K,
    R,
    edit,
    entry,
    landmarks,
    rgba,
    write_cameras,
    write_views,
)


@pytest.fixture
def folder(tmp_path, rng) -> pathlib.Path:
    """Three views with alpha, cameras and landmarks."""
    return write_views(tmp_path, rng)


def test_a_complete_folder(folder):
    views = load_views(folder, need=("cameras", "masks", "landmarks"))
    stored = np.asarray(Image.open(folder / "view_001.png"))
    assert views.names == ("view_000.png", "view_001.png", "view_002.png")
    assert views.images.dtype == np.float32 and views.images.shape == (3, HEIGHT, WIDTH, 3)
    seen = stored[..., 3] > 0
    np.testing.assert_allclose(views.images[1][seen], stored[seen][:, :3] / 255, atol=1e-6)
    assert (views.images[1][~seen] == 1).all()  # white, whatever the file holds there
    np.testing.assert_array_equal(views.mask[1], seen)
    assert views.valid.all() and views.units == "millimetres"
    np.testing.assert_array_equal(views.cameras.t, [[0, 1, 100], [0, 1, 101], [0, 1, 102]])
    np.testing.assert_array_equal(views.cameras.K[2], K)
    assert views.expression.tolist() == [0, 1, 0]
    assert views.ground_truth == (None, None, folder / "gt.ply")
    assert views.landmark_weights.sum() == 3 * 68 and views.warnings == ()
    np.testing.assert_array_equal(views.intrinsics, views.cameras.K)


def test_select_takes_views_in_the_order_asked(folder):
    views, all_views = load_views(folder, (2, 0)), load_views(folder)
    assert views.names == ("view_002.png", "view_000.png") and views.indices == (2, 0)
    for name in ("images", "mask", "landmarks2d", "landmark_weights", "sizes", "expression"):
        np.testing.assert_array_equal(getattr(views, name), getattr(all_views, name)[[2, 0]])
    np.testing.assert_array_equal(views.cameras.t, all_views.cameras.t[[2, 0]])


@pytest.mark.parametrize("select", [(3,), (-1,), (), (1, 1)])
def test_select_refuses(folder, select):
    with pytest.raises(InputError, match="from 0 to 2"):
        load_views(folder, select)


def test_alpha_threshold_is_128(tmp_path):
    pixels = np.full((2, 2, 4), 200, np.uint8)
    pixels[..., 3] = [[127, 128], [0, 255]]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_views(tmp_path).mask[0], [[0, 1], [0, 1]])


def test_mask_file_wins_over_alpha_and_ignore_is_invalid(folder):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:2] = 255
    Image.fromarray(mask).save(folder / "view_000_mask.png")
    Image.fromarray(mask.T.copy().reshape(HEIGHT, WIDTH)).save(folder / "view_001_ignore.png")
    views = load_views(folder)
    np.testing.assert_array_equal(views.mask[0], mask > 0)
    np.testing.assert_array_equal(views.valid[1], mask.T.reshape(HEIGHT, WIDTH) == 0)
    assert views.valid[0].all()


def test_plain_folder_in_natural_order_and_one_photo(tmp_path, rng):
    for i in (10, 2, 1):
        Image.fromarray(rgba(rng)[..., :3]).save(tmp_path / f"view_{i}.png")
    Image.fromarray(rgba(rng)[..., 3]).save(tmp_path / "view_2_mask.png")
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(InputError, match="view_1.png, view_10.png have no mask"):
        load_views(tmp_path)
    one = load_views(tmp_path / "view_2.png")
    assert one.names == ("view_2.png",) and one.mask.sum() == 48 and one.cameras is None
    (tmp_path / "view_2_mask.png").unlink()
    views = load_views(tmp_path)
    assert views.names == ("view_1.png", "view_2.png", "view_10.png")
    assert views.mask is None and views.landmarks2d is None and views.units is None
    for need in ("cameras", "masks", "landmarks"):
        with pytest.raises(InputError, match=f"has no {need}"):
            load_views(tmp_path, need=(need,))


def test_sizes_are_padded_at_the_right_and_the_bottom(tmp_path, rng):
    Image.fromarray(rgba(rng, 12, 20)).save(tmp_path / "a.png")
    Image.fromarray(rgba(rng, 15, 16)).save(tmp_path / "b.png")
    views = load_views(tmp_path)
    assert views.images.shape == (2, 15, 20, 3) and views.sizes.tolist() == [[12, 20], [15, 16]]
    assert (views.images[0, 12:] == 1).all() and (views.mask[1, :, 16:] == 0).all()
    assert views.valid[0, :12].all() and not views.valid[0, 12:].any()
    assert views.valid[1, :, :16].all() and not views.valid[1, :, 16:].any()
    assert views.mask[0].sum() == views.mask[1].sum() == 48  # nothing was moved or scaled
    assert (views.mask[0, 3:9, 4:12] == 1).all()


def _truncated(folder):
    data = (folder / "view_001.png").read_bytes()
    (folder / "view_001.png").write_bytes(data[: len(data) // 2])


def _other_format(folder):
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "view_001.png", format="BMP")


def _ignore_all(folder):
    Image.new("L", (WIDTH, HEIGHT), 255).save(folder / "view_002_ignore.png")


def _mask_of(value, size=(WIDTH, HEIGHT)):
    return lambda folder: Image.new("L", size, value).save(folder / "view_000_mask.png")


def _views(*views, **changes):
    def spoil(folder):
        (folder / "landmarks.json").unlink()
        write_cameras(folder, list(views), **changes)

    return spoil


def _text(name, text):
    return lambda folder: (folder / name).write_text(text)


def _marks(**changes):
    return _text("landmarks.json", json.dumps(landmarks(**changes)))


def _marks_with_nan(folder):
    document = landmarks()
    document["landmarks2d"][1][5] = [None, 3.0]
    (folder / "landmarks.json").write_text(json.dumps(document))


GL_ROTATION = [[1, 0, 0], [0, 1, 0], [0, 0, -1]]
BAD = {
    "truncated image": (_truncated, "view_001.png is not an image"),
    "text as image": (_text("view_001.png", "hello"), "view_001.png is not an image"),
    "format not allowed": (_other_format, "view_001.png is not an image"),
    "mask empty": (_mask_of(0), "view_000_mask.png marks nothing"),
    "mask full": (_mask_of(255), "view_000_mask.png marks every pixel"),
    "mask of another size": (_mask_of(255, (4, 4)), "view_000_mask.png is 4 x 4"),
    "all ignored": (_ignore_all, "view_002_ignore.png ignores every pixel"),
    "not JSON": (_text("cameras.json", "{"), "cameras.json cannot be read as JSON"),
    "deep JSON": (_text("cameras.json", "[" * 100_000), "cameras.json cannot be read as JSON"),
    "not an object": (_text("cameras.json", "[]"), "no object"),
    "no views": (_views(), "lists no views"),
    "a view is no object": (_views(3), "lists no views"),
    "absent image": (_views(entry(7)), "no image at .*view_007.png"),
    "path escape": (_views(entry(0, file="../x.png")), "outside the folder"),
    "absolute path": (_views(entry(0, file="/etc/hostname")), "outside the folder"),
    "null byte": (_views(entry(0, file="a\0b")), "null byte"),
    "mesh escape": (_views(entry(0, gt="../../gt.ply")), "outside the folder"),
    "K with NaN": (_views(entry(0, K=[[float("nan"), 0, 8], K[1], K[2]])), "K is .*NaN"),
    "K ragged": (_views(entry(0, K=[[1, 2], [3]])), "K is"),
    "K absent": (_views(entry(0, K=None)), "have R and t only"),
    "K singular": (_views(entry(0, K=[[0, 0, 8], K[1], K[2]])), "not a pinhole"),
    "K not pinhole": (_views(entry(0, K=[K[0], K[1], [0, 0.1, 1]])), "not a pinhole"),
    "R scaled": (_views(entry(0, R=(2 * np.array(R)).tolist())), "R is not a rotation: off by 3"),
    "R mirrored": (_views(entry(0, R=GL_ROTATION)), "a reflection"),
    "t infinite": (_views(entry(0, t=[0, 0, float("inf")])), "t is .*Infinity"),
    "t short": (_views(entry(0, t=[0, 0])), "expected: 3 finite"),
    "huge number": (_views(entry(0, t=[0, 0, 10**400])), "t is"),
    "units": (_views(entry(0), units="inches"), 'units is "inches"'),
    "size": (_views(entry(0), width=99), "cameras.json says width 99"),
    "expression": (_views(entry(0, expression="smile")), 'expression of view 0 is "smile"'),
    "landmarks shape": (_marks(landmarks2d=[[[0, 0]] * 67] * 3), r"has shape \(3, 67, 2\)"),
    "landmarks ragged": (_marks(landmarks2d=[[0], [1, 2]]), "unequal length"),
    "landmarks of other views": (_marks(count=2), r"visible is .* shape \(3, 68\)"),
    "landmarks not finite": (_marks_with_nan, "not a place"),
    "few landmarks": (_marks(valid=[True] * 19 + [False] * 49), "only 19 of 68"),
    "valid not booleans": (_marks(valid=[0.5] * 68), "valid is .*not booleans"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_folders_are_refused_with_one_clear_message(folder, name):
    spoil, message = BAD[name]
    spoil(folder)
    with pytest.raises(InputError, match=message):
        load_views(folder)


def test_absent_and_empty_folders(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_views(tmp_path / "absent")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "photo.heic").write_bytes(b"")
    with pytest.raises(InputError, match="no images"):
        load_views(tmp_path)


def test_too_large_images_are_refused_before_decoding(tmp_path, monkeypatch):
    Image.new("L", (9000, 9000)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="too large: 9000 x 9000"):
        load_views(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)  # Pillow's own guard comes first
    with pytest.raises(InputError, match="too large"):
        load_views(tmp_path)


def test_too_many_pixels_in_all(folder, monkeypatch):
    monkeypatch.setattr("jaxrecon.pipelines.views_pixels.MAX_TOTAL_PIXELS", 3 * HEIGHT * WIDTH - 1)
    with pytest.raises(InputError, match="too many at once"):
        load_views(folder)
    assert load_views(folder, (0, 1)).images.shape[0] == 2


def test_hidden_landmarks_keep_their_place_and_lose_their_weight(folder):
    visible = np.ones((3, 68), bool)
    visible[1, 4] = False
    valid = np.arange(68) != 9
    document = landmarks(visible=visible.tolist(), valid=valid.tolist())
    document["landmarks2d"][0][9] = [None, None]  # unknown: its coordinates do not matter
    (folder / "landmarks.json").write_text(json.dumps(document))
    views = load_views(folder)
    np.testing.assert_array_equal(views.landmark_weights, visible & valid)
    np.testing.assert_array_equal(views.landmark_valid, valid)
    np.testing.assert_allclose(views.landmarks2d[1, 4], document["landmarks2d"][1][4], rtol=1e-6)
    assert (views.landmarks2d[:, 9] == 0).all()


def test_no_valid_landmark_means_no_landmarks(folder):
    _marks(valid=[False] * 68)(folder)
    assert load_views(folder).landmarks2d is None


def test_landmarks_outside_their_picture_are_hidden_and_told(folder):
    document = landmarks()
    document["landmarks2d"][0][3], document["landmarks2d"][0][7] = [-1, -1], [5, HEIGHT + 0.5]
    document["landmarks2d"][2][0] = [WIDTH + 1, 3]
    document["visible"] = [[j != 7 for j in range(68)]] * 3
    document["valid"] = [j > 1 for j in range(68)]
    (folder / "landmarks.json").write_text(json.dumps(document))
    views = load_views(folder)
    np.testing.assert_array_equal(views.landmark_weights.sum(axis=1), [64, 65, 65])
    assert views.landmark_weights[0, 3] == 0  # invalid and hidden ones may lie anywhere
    assert views.warnings == (
        "view_000.png: 1 seen landmarks lie outside the image; they are taken as hidden",
        "2 of the 68 landmarks are not valid: the fit does without",
    )


# ---------------------------------------------------------------- what cameras.json may leave out


@pytest.mark.parametrize(
    ("looks", "labels", "told"),
    [
        ((..., ..., ...), [0, 0, 0], None),
        ((5, 5, 2), [5, 5, 2], None),
        ((1, ..., 1), [1, 3, 1], "view_001.png is unknown"),
        ((None, 0, "unknown"), [1, 0, 3], "view_000.png, view_002.png is unknown"),
        (("unknown",) * 3, [0, 1, 2], "view_000.png, view_001.png, view_002.png"),
    ],
)
def test_unknown_expressions_are_each_their_own(folder, looks, labels, told):
    views = [entry(i) | ({} if x is ... else {"expression": x}) for i, x in enumerate(looks)]
    write_cameras(folder, views)
    found = load_views(folder)
    assert found.expression.tolist() == labels
    assert len(found.warnings) == (told is not None)
    assert told is None or told in found.warnings[0]
    chosen = load_views(folder, (2, 0))  # the choice of views does not change their labels
    assert chosen.expression.tolist() == [labels[2], labels[0]]
    assert load_views(folder, (1,)).warnings == ()


def test_cameras_without_poses_or_scale(folder):
    without = {"R": None, "t": None}
    write_cameras(folder, [entry(i, **without) for i in range(3)])
    views = load_views(folder, (2, 1))
    assert views.cameras is None and views.units == "millimetres"
    np.testing.assert_array_equal(views.intrinsics, [K, K])
    with pytest.raises(InputError, match="cameras.json holds no K, R and t(.|\n)*import-cameras"):
        load_views(folder, need=("cameras",))
    write_cameras(folder, [{"file": "view_002.png"}, {"file": "view_000.png"}], units=None)
    (folder / "landmarks.json").unlink()
    views = load_views(folder)
    assert views.names == ("view_002.png", "view_000.png")
    assert views.cameras is views.intrinsics is views.units is None
    write_cameras(folder, [entry(i) for i in range(3)], units="unknown")
    views = load_views(folder)
    assert views.units == "unknown" and views.cameras is not None
    write_cameras(folder, [entry(0), entry(1, **without), entry(2, **without)])
    assert load_views(folder, (1, 2)).cameras is None  # the chosen ones are alike
    with pytest.raises(InputError, match='view 1 .*"view_001.png".* has no R, other views have'):
        load_views(folder)


def test_a_turned_photograph_and_its_camera(folder, rng):
    exif = Image.Exif()
    exif[0x0112] = 8
    for i in range(3):
        Image.fromarray(rgba(rng)).save(folder / f"view_{i:03d}.png", exif=exif)
    with pytest.raises(InputError, match="12 x 16 pixels .upright: an EXIF tag turns"):
        load_views(folder)
    edit(folder / "cameras.json", lambda d: d.update(width=HEIGHT, height=WIDTH))
    edit(folder / "landmarks.json", lambda d: d.update(valid=[False] * 68))
    views = load_views(folder)
    assert views.sizes.tolist() == [[WIDTH, HEIGHT]] * 3 and "EXIF" in views.warnings[0]
    (folder / "cameras.json").unlink()
    assert load_views(folder).warnings == ()


def test_links_stay_in_the_folder(folder, tmp_path_factory, rng):
    outside = tmp_path_factory.mktemp("outside") / "photo.png"
    Image.fromarray(rgba(rng)).save(outside)
    (folder / "view_000_mask.png").symlink_to(outside)
    with pytest.raises(InputError, match="view_000_mask.png.*lies outside"):
        load_views(folder)
    (folder / "view_000_mask.png").unlink()
    (folder / "view_001.png").unlink()
    (folder / "view_001.png").symlink_to(outside)
    for _ in range(2):  # named in cameras.json, then listed
        with pytest.raises(InputError, match="view_001.png.*lies outside"):
            load_views(folder)
        (folder / "cameras.json").unlink(missing_ok=True)
    (folder / "view_001.png").unlink()
    (folder / "view_001.png").symlink_to("view_002.png")
    (folder / "landmarks.json").unlink()
    assert len(load_views(folder).names) == 3


def test_shared_faces(shared):
    """The folders that the shared README describes."""
    for path in sorted((shared / "data" / "faceviews").iterdir()):
        views = load_views(path, need=("cameras", "masks", "landmarks"))
        stored = json.loads((path / "landmarks.json").read_text())
        assert views.images.shape == (4, 256, 256, 3) and views.units == "millimetres"
        assert all(gt is not None and gt.is_file() for gt in views.ground_truth)
        share = views.mask.mean(axis=(1, 2))
        assert (share > 0.1).all() and (share < 0.9).all()
        # cameras, landmarks and their 3D points agree to a few hundredths of a pixel
        X = np.asarray(stored["landmarks3d"])[views.expression]
        x = np.einsum("vij,vnj->vni", views.cameras.R, X) + views.cameras.t[:, None]
        p = np.einsum("vij,vnj->vni", views.cameras.K, x)
        error = np.linalg.norm(p[..., :2] / p[..., 2:] - views.landmarks2d, axis=-1)
        assert error[views.landmark_weights > 0].max() < 0.05
