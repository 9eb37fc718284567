"""`jaxrecon fit` with bad input: one clear message, exit code 2, older results byte for byte as
they were; and with input that is odd but usable: a warning, and it is done.
"""

import errno
import json
import os
import pathlib
import shutil
import struct
import zlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from data_pipelines.render_head import render_subject
from jaxrecon.cli.main import main
from jaxrecon.errors import InputError
from jaxrecon.interop.weights import load_weights, save_weights
from jaxrecon.pipelines import implicit_deformation as pipeline
from jaxrecon.pipelines.views import load_views
from tests.pipelines.toy_prior import FIT, VIEWS, write_toy_model, write_toy_weights
from tests.pipelines.views_folder import (
    HEIGHT,
    WIDTH,
    K,
    R,
    edit,
    landmarks,
    write_views,
)

OLD = ("mesh.ply", "mesh.glb", "fit.json", "state.npz", "report.html", "mesh_view_007.ply")


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Everything below a folder."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture
def subject(tmp_path, rng) -> pathlib.Path:
    """A folder to spoil; ../out holds older results of it."""
    folder = tmp_path / "anna"
    folder.mkdir()
    old = tmp_path / "out" / "anna"
    old.mkdir(parents=True)
    for name in OLD:
        (old / name).write_text(f"older {name}")
    return write_views(folder, rng)


def refused(capsys, argv, *words) -> str:
    """Exit code 2 and one message that holds the words and a way out; what it said."""
    assert main([str(a) for a in argv]) == 2
    captured = capsys.readouterr()
    text = captured.err
    assert text.count("error: ") == 1 and "Traceback" not in text, text
    assert "  expected: " in text or "  remedy: " in text, text
    assert all(word in text for word in words), text
    assert "report: " not in captured.out and len(text) < 2000
    return text


# ---------------------------------------------------------------- spoiled folders


def put(name, data):
    """Replaces a file by these bytes."""
    return lambda folder: (folder / name).write_bytes(data)


def replace(name, change):
    """Applies `change` to the bytes of a file."""

    def spoil(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return spoil


def as_folder(name):
    def spoil(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return spoil


def picture(name, mode="L", size=(WIDTH, HEIGHT), colour=0):
    return lambda folder: Image.new(mode, size, colour).save(folder / name)


def link_out(folder):
    other = folder.parent / "elsewhere.png"
    (folder / "view_001.png").rename(other)
    (folder / "view_001.png").symlink_to(other)


def loop(folder):
    (folder / "view_001.png").unlink()
    (folder / "view_001.png").symlink_to("view_001.png")


def pipe(folder):
    (folder / "cameras.json").unlink()
    os.mkfifo(folder / "cameras.json")


def bomb(folder):
    """A PNG of 100,000 x 100,000 pixels in a few bytes."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header
    chunk += struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = (folder / "view_001.png").read_bytes()
    (folder / "view_001.png").write_bytes(data[:8] + chunk + data[33:])


def view(**changes):
    """Changes the second view of cameras.json; `...` deletes."""

    def change(document):
        entry = document["views"][1] | changes
        document["views"][1] = {n: value for n, value in entry.items() if value is not ...}

    return lambda folder: edit(folder / "cameras.json", change)


def top(**changes):
    return lambda folder: edit(folder / "cameras.json", lambda d: d.update(changes))


def text_of_view(before, after):
    """Puts text into cameras.json that json.dumps would not write."""
    return replace("cameras.json", lambda d: d.replace(before, after, 1))


def marks(**changes):
    return put("landmarks.json", json.dumps(landmarks(**changes)).encode())


def mark(value, place=(1, 5)):
    """One landmark of one view."""

    def change(document):
        document["landmarks2d"][place[0]][place[1]] = value

    return lambda folder: edit(folder / "landmarks.json", change)


def label_image(value, names='{"labels": "bisenet"}', size=(WIDTH, HEIGHT)):
    def spoil(folder):
        Image.new("L", size, value).save(folder / "view_000_labels.png")
        (folder / "labels.json").write_text(names)

    return spoil


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


def only(name):
    def spoil(folder):
        empty(folder)
        (folder / name).write_bytes(b"0123456789")

    return spoil


def drop_alpha(folder):
    for path in folder.glob("view_*.png"):
        Image.open(path).convert("RGB").save(path)


MIRROR = (np.diag([1.0, 1.0, -1.0]) @ np.array(R)).tolist()
DEEP = ("[" * 100_000).encode()
ONE_PLACE = [[[3.0, 3.0]] * 68] * 3
FEW_SEEN = [[j < 19 for j in range(68)]] * 3
NAN = float("nan")

CASES = {
    # views
    "view missing": (lambda f: (f / "view_001.png").unlink(), "view_001.png"),
    "view corrupt": (replace("view_001.png", lambda d: d[:60] + bytes(40) + d[100:]), "view_001"),
    "view truncated": (replace("view_001.png", lambda d: d[: len(d) // 2]), "view_001.png"),
    "view is text": (put("view_001.png", b"<html>404</html>"), "view_001.png"),
    "view of zero bytes": (put("view_001.png", b""), "view_001.png"),
    "view a bomb": (bomb, "view_001.png is too large"),
    "view a folder": (as_folder("view_001.png"), "view_001.png, which is not a file"),
    "view links outside": (link_out, "view_001.png"),
    "view links to itself": (loop, "view_001.png"),
    "view a GIF": (lambda f: Image.new("L", (16, 12)).save(f / "view_001.png", "GIF"), "view_001"),
    # cameras.json
    "cameras no JSON": (put("cameras.json", b"{'views': []}"), "cameras.json"),
    "cameras empty": (put("cameras.json", b""), "cameras.json"),
    "cameras an array": (put("cameras.json", b"[]"), "cameras.json", "no object"),
    "cameras deep": (put("cameras.json", DEEP), "cameras.json cannot be read"),
    "cameras a deep value": (
        text_of_view(b'"t": [', b'"t": ' + b"[" * 400 + b"]" * 400 + b', "u": ['),
        "cameras.json",
    ),
    "cameras not UTF-8": (put("cameras.json", b'{"units": "\xff"}'), "cameras.json", "UTF-8"),
    "cameras a folder": (as_folder("cameras.json"), "cameras.json", "not a file"),
    "cameras a pipe": (pipe, "cameras.json", "not a file"),
    "cameras over-size": (put("cameras.json", b" " * 33_000_000), "over 32 MB"),
    "cameras list no views": (top(views=[]), "lists no views"),
    "cameras name absent files": (view(file="view_009.png"), "no image at", "view_009.png"),
    "cameras name another folder": (view(file="../anna/../x.png"), "outside the folder"),
    "cameras name an absolute path": (view(file="/etc/passwd"), "outside the folder"),
    "cameras name what no file can be called": (view(file="a" * 5000), "cameras.json"),
    "cameras name half a character": (view(file="\ud800.png"), "cameras.json"),
    "cameras name the folder": (view(file=""), "not a file"),
    "K holds NaN": (view(K=[[NAN, 0, 8], K[1], K[2]]), "view 1", "K is", "NaN"),
    "t holds Infinity": (view(t=[0, 0, float("inf")]), "view 1", "t is", "Infinity"),
    "t beyond numbers": (text_of_view(b"101]", b"1" + b"0" * 400 + b"]"), "t is"),
    "t beyond parsing": (text_of_view(b"101]", b"1" * 5000 + b"]"), "cameras.json"),
    "t too large": (view(t=[0, 0, 1e200]), "t is"),
    "K singular": (view(K=[[0, 0, 8], K[1], K[2]]), "view 1", "not a pinhole"),
    "K of zeros": (view(K=[[0, 0, 0]] * 3), "not a pinhole"),
    "K normalised": (view(K=[[0.9, 0, 0.5], [0, 0.9, 0.5], K[2]]), "not in pixels"),
    "K of another shape": (view(K=[[50, 0, 8], [0, 50, 6]]), "K is", "3 x 3 finite numbers"),
    "K of strings": (view(K=[["50", "0", "8"], K[1], K[2]]), "K is", "finite numbers"),
    "K of booleans": (view(K=[[True, 0, 8], K[1], K[2]]), "K is"),
    "R mirrors": (view(R=MIRROR), "a reflection", "OpenCV"),
    "R scaled": (view(R=(3 * np.array(R)).tolist()), "R is not a rotation"),
    "R huge": (view(R=[[1e200, 0, 0], R[1], R[2]]), "R is not a rotation"),
    "R missing in one view": (view(R=...), "view 1", "has no R"),
    "K missing in one view": (view(K=None), "view 1", "has no K"),
    "unit missing": (top(units=None), "units is null", "metres"),
    "unit wrong": (top(units="inches"), 'units is "inches"'),
    "width of other pictures": (top(width=4000), "view_000.png", "says width 4000"),
    "height of text": (top(height="12"), 'says height "12"'),
    "expression negative": (view(expression=-1), "expression of view 1 is -1"),
    "expression huge": (view(expression=10**30), "expression of view 1"),
    # masks and labels
    "mask empty": (picture("view_000_mask.png"), "view_000_mask.png marks nothing"),
    "mask full": (picture("view_000_mask.png", colour=255), "marks every pixel"),
    "mask of 0 and 1": (picture("view_000_mask.png", colour=1), "128 of 255"),
    "mask of another size": (picture("view_000_mask.png", size=(4, 4)), "view_000_mask.png is 4"),
    "mask corrupt": (put("view_000_mask.png", b"\x89PNG\r\n\x1a\n12345"), "view_000_mask.png"),
    "mask a folder": (as_folder("view_000_mask.png"), "view_000_mask.png"),
    "masks of some views": (
        lambda f: Image.open(f / "view_002.png").convert("RGB").save(f / "view_002.png"),
        "view_002.png have no mask",
    ),
    "no masks": (drop_alpha, "masks"),
    "all ignored": (picture("view_002_ignore.png", colour=255), "view_002_ignore.png"),
    "labels unknown": (label_image(77), "view_000_labels.png holds the label 77"),
    "labels of another size": (label_image(1, size=(3, 3)), "view_000_labels.png is 3 x 3"),
    "labels ignore everything": (label_image(17), "view_000.png is ignored"),
    "labels without names": (
        lambda f: (label_image(1)(f), (f / "labels.json").unlink()),
        "no labels.json",
        "bisenet",
    ),
    "label names broken": (label_image(1, "{]"), "labels.json cannot be read"),
    "label names unknown": (label_image(1, '{"labels": ["x", "skin"]}'), 'label 0 is called "x"'),
    "labels corrupt": (
        lambda f: (label_image(1)(f), put("view_000_labels.png", b"GIF89a")(f)),
        "view_000_labels.png",
    ),
    # landmarks
    "landmarks absent": (lambda f: (f / "landmarks.json").unlink(), "landmarks"),
    "landmarks no JSON": (put("landmarks.json", b"0 0\n1 1\n"), "landmarks.json"),
    "landmarks without points": (put("landmarks.json", b"{}"), "landmarks.json", "68, 2)"),
    "landmarks of 67 points": (marks(landmarks2d=[[[1, 1]] * 67] * 3), "(3, 67, 2)"),
    "landmarks in 3D": (marks(landmarks2d=[[[1, 1, 1]] * 68] * 3), "(3, 68, 3)"),
    "landmarks of text": (mark(["1", "2"]), "landmarks.json"),
    "landmarks of two views": (
        put("landmarks.json", json.dumps({"landmarks2d": [[[1, 1]] * 68] * 2}).encode()),
        "(2, 68, 2)",
        "(3, 68, 2)",
    ),
    "landmarks visible and NaN": (mark([NAN, 1]), "landmark 5 of view 1", "[nan, 1.0]"),
    "landmarks visible and null": (mark([1, None]), "landmark 5 of view 1"),
    "landmarks visible beyond all": (mark([1, 1e12]), "landmark 5 of view 1"),
    "19 landmarks valid": (marks(valid=[True] * 19 + [False] * 49), "only 19 of 68"),
    "no landmark valid": (marks(valid=[False] * 68), "landmarks.json holds no valid"),
    "valid of numbers": (marks(valid=[0.5] * 68), "valid is"),
    "visible of text": (marks(visible=[["true"] * 68] * 3), "visible is"),
    "visible of one view": (marks(visible=[[True] * 68]), "visible is", "(3, 68)"),
    "19 landmarks seen": (marks(visible=FEW_SEEN), "only 19 landmarks are seen"),
    "landmarks in one place": (marks(landmarks2d=ONE_PLACE), "within a few pixels"),
    "landmarks all outside": (marks(landmarks2d=[[[99, 99]] * 68] * 3), "landmarks are seen"),
    # folders
    "folder empty": (empty, "no images in"),
    "folder of other formats": (only("IMG_0001.HEIC"), "no images in", "HEIC"),
    "folder of hidden files": (only("._view.png"), "no images in"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_folder_is_refused_in_one_message(capsys, subject, tmp_path, name):
    spoil, *words = CASES[name]
    spoil(subject)
    before = contents(tmp_path / "out")
    text = refused(capsys, ["fit", subject, "--out", tmp_path / "out"], *words)
    assert "anna" in text  # which subject
    assert contents(tmp_path / "out") == before and len(before) == len(OLD)


# ---------------------------------------------------------------- options and output


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_toy_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    return write_toy_weights(model, tmp_path_factory.mktemp("weights"))


def test_bad_options_are_refused(capsys, subject, tmp_path):
    out = tmp_path / "out"
    before = contents(out)
    twin = tmp_path / "other" / "anna"
    twin.mkdir(parents=True)
    for more, *words in (
        (["--views", "0,3"], "views 0,3", "from 0 to 2"),
        (["--views", "1,1"], "views 1,1", "different"),
        (["--views", "one"], "--views one"),
        (["--views", ""], "--views"),
        (["--seed", "-1"], "--seed -1"),
        (["--resolution", "30"], "--resolution 30"),
        (["--resolution", "4096"], "--resolution 4096"),
        (["--weights", tmp_path / "absent"], "absent.safetensors"),
    ):
        refused(capsys, ["fit", subject, "--out", out, *more], *words)
    refused(capsys, ["fit", subject, twin, "--out", out], "called anna")
    refused(capsys, ["fit", tmp_path / "absent", "--out", out], "no such folder", "absent")
    refused(capsys, ["fit", "--out", out], "no VIEWS")
    assert contents(out) == before


def test_bad_weights_are_refused(capsys, subject, weights, tmp_path):
    out, before = tmp_path / "out", contents(tmp_path / "out")
    tree, header = load_weights(weights)
    own = tmp_path / "own"
    argv = ["fit", subject, "--out", out, "--weights", own]
    arrays, names = own.with_suffix(".safetensors"), own.with_suffix(".json")

    def fresh(**changes):
        save_weights(own, tree, {k: v for k, v in header.items() if k != "format"} | changes)

    fresh(system="pifu")
    refused(capsys, argv, "own", "not weights of implicit_deformation")
    fresh(network=header["network"] | {"features": 9})
    refused(capsys, argv, "own", "do not fit")
    for damage in (lambda d: d[: len(d) // 2], lambda d: b"\xff" * 8 + d[8:], lambda d: b""):
        fresh()
        arrays.write_bytes(damage(arrays.read_bytes()))
        refused(capsys, argv, "own.safetensors")
    for text in ("", "[]", "{}", '{"format": NaN}'):
        fresh()
        names.write_text(text)
        refused(capsys, argv, "own.json")
    assert contents(out) == before


def test_outputs_that_cannot_be_written(capsys, subject, tmp_path, monkeypatch):
    photo = subject / "view_000.png"
    data = photo.read_bytes()
    refused(capsys, ["fit", subject, "--out", photo], "view_000.png", "a file")
    refused(capsys, ["fit", subject, "--out", photo / "below"], "view_000.png")
    assert photo.read_bytes() == data
    refused(capsys, ["fit", subject, "--out", tmp_path / ("a" * 300)], "cannot make the folder")
    if pathlib.Path("/proc/self").is_dir():  # nobody may make folders there, root neither
        refused(capsys, ["fit", subject, "--out", "/proc/self/jaxrecon"], "/proc/self/jaxrecon")
    out, before = tmp_path / "out", contents(tmp_path / "out")
    for code, words in ((errno.EACCES, "no permission"), (errno.EROFS, "no permission")):

        def touch(self, code=code, **_):
            raise OSError(code, os.strerror(code), str(self))

        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "touch", touch)
            refused(capsys, ["fit", subject, "--out", out], words, str(out))
    assert contents(out) == before
    if os.geteuid():  # root may write everywhere
        (out / "anna").chmod(0o500)
        refused(capsys, ["fit", subject, "--out", out], "no permission")
        (out / "anna").chmod(0o700)
        assert contents(out) == before


# ---------------------------------------------------------------- made by hypothesis

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
SOME = hypothesis.settings(
    max_examples=150,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


def loads_or_is_refused(folder: pathlib.Path) -> None:
    """Finite arrays of the promised shapes, or an InputError that names the folder."""
    try:
        views = load_views(folder)
    except InputError as error:
        assert folder.name in str(error) and len(str(error)) < 2000
        return
    count, height, width = views.images.shape[:3]
    assert np.isfinite(views.images).all() and views.valid.shape == (count, height, width)
    assert views.mask is None or views.mask.shape == views.valid.shape
    assert (views.sizes <= (height, width)).all() and views.expression.shape == (count,)
    if views.intrinsics is not None:
        assert views.intrinsics.shape == (count, 3, 3)
        assert np.isfinite(np.linalg.inv(views.intrinsics.astype(np.float32))).all()
    if views.cameras is not None:
        assert views.cameras.R.shape == (count, 3, 3) and views.units is not None
        np.testing.assert_allclose(np.linalg.det(views.cameras.R), 1, atol=1e-2)
        assert np.isfinite(np.float32(views.cameras.t)).all()
    if views.landmarks2d is not None:
        assert views.landmarks2d.shape == (count, 68, 2) and np.isfinite(views.landmarks2d).all()
        assert set(np.unique(views.landmark_weights)) <= {0, 1}


def places(value, path=()):
    """The path of everything inside a JSON value, but of few members of long lists."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 3)):
            yield from places(value[i], (*path, i))


def mutate(draw, document):
    """Deletes, replaces or repeats one place of a JSON document."""
    where = draw(st.sampled_from(sorted(places(document), key=str)))
    if not where:
        return draw(JSON)
    parent = document
    for key in where[:-1]:
        parent = parent[key]
    what = draw(st.sampled_from(["delete", "replace", "replace", "repeat"]))
    if what == "delete":
        del parent[where[-1]]
    elif what == "replace":
        parent[where[-1]] = draw(JSON)
    elif isinstance(parent, list):
        parent.append(parent[where[-1]])
    else:
        parent[draw(st.text(max_size=4))] = parent[where[-1]]
    return document


@pytest.mark.parametrize("name", ["cameras.json", "landmarks.json"])
@SOME
@hypothesis.given(data=st.data())
def test_any_mutation_of_json_loads_or_is_refused(subject, name, data):
    file = subject / name
    original = file.read_text()
    try:
        file.write_text(json.dumps(mutate(data.draw, json.loads(original))))
        loads_or_is_refused(subject)
    finally:
        file.write_text(original)


@pytest.mark.parametrize("name", ["view_001.png", "view_000_mask.png", "view_000_labels.png"])
@SOME
@hypothesis.given(data=st.data())
def test_any_damage_of_a_picture_loads_or_is_refused(subject, name, data):
    if not (subject / "view_000_mask.png").exists():
        label_image(1)(subject)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[2:9, 2:9] = 255
        Image.fromarray(mask).save(subject / "view_000_mask.png")
    good = (subject / name).read_bytes()
    damaged = bytearray(good[: data.draw(st.integers(0, len(good)) | st.just(len(good)))])
    for _ in range(data.draw(st.integers(0, 3)) if damaged else 0):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        (subject / name).write_bytes(damaged)
        loads_or_is_refused(subject)
    finally:
        (subject / name).write_bytes(good)


# ---------------------------------------------------------------- odd, warned about, and done


@pytest.fixture(scope="module")
def photographs(model, tmp_path_factory):
    """Three views of two expressions."""
    return render_subject(model, 3, tmp_path_factory.mktemp("views") / "anna", VIEWS)


@pytest.fixture
def copy(photographs, tmp_path, monkeypatch):
    """A copy of the photographs to change; fits are tiny."""
    monkeypatch.setitem(pipeline.PRESETS, "fast", pipeline.Preset(FIT, resolution=32))
    return pathlib.Path(shutil.copytree(photographs, tmp_path / "anna"))


def fitted(capsys, folder, weights, *more) -> tuple[dict, str]:
    """fit.json of a fit that worked, and what was said on stderr."""
    out = folder.parent / "out"
    argv = ["fit", folder, "--out", out, "--weights", weights, *more]
    assert main([str(a) for a in argv]) == 0
    result = out / folder.name
    assert {"mesh.ply", "mesh.glb", "report.html"} <= {p.name for p in result.iterdir()}
    return json.loads((result / "fit.json").read_text()), capsys.readouterr().err


def test_odd_landmarks_expressions_and_labels_are_told_and_done(capsys, copy, weights):
    def spoil(document):
        points, visible = document["landmarks2d"], document["visible"]
        document["valid"] = [j not in (30, 31) for j in range(68)]
        points[0][30], points[1][31] = [NAN, 5], [None, None]  # invalid
        visible[1][40], points[1][40] = False, [1e9, NAN]  # hidden
        visible[2][8], points[2][8] = True, [30.0, 64.5]  # below the picture

    edit(copy / "landmarks.json", spoil)
    edit(copy / "cameras.json", lambda d: d["views"][1].update(expression="unknown"))
    edit(copy / "cameras.json", lambda d: d["views"][2].pop("expression"))
    labels = np.ones((64, 64), np.uint8)
    labels[:20] = 3  # hair
    Image.fromarray(labels).save(copy / "view_001_labels.png")
    (copy / "labels.json").write_text('{"labels": {"1": "skin", "3": "hair"}}')
    record, said = fitted(capsys, copy, weights)
    assert record["expression"] == [0, 2, 3]
    for words in (
        "the expression of view_001.png, view_002.png is unknown",
        "2 of the 68 landmarks are not valid",
        "view_002.png: 1 seen landmarks lie outside the image",
    ):
        assert sum(words in warning for warning in record["warnings"]) == 1
        assert said.count(words) == 1
    assert "warning" in said and "error: " not in said


def test_one_view_is_told_and_done(capsys, copy, weights):
    record, said = fitted(capsys, copy, weights, "--views", "0")
    assert record["views"] == ["view_000.png"]
    assert any("one view only" in warning for warning in record["warnings"])
    assert "one view only" in said


# ---------------------------------------------------------------- the disk fills while we write


def full_disk(monkeypatch, call):
    """No space from the `call`-th on: when a file is written or flushed."""
    real = {"write_bytes": pathlib.Path.write_bytes, "fsync": os.fsync}

    def failing(name):
        def act(*args, **options):
            calls.append(name)
            if len(calls) >= call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real[name](*args, **options)

        return act

    calls = []
    monkeypatch.setattr(pathlib.Path, "write_bytes", failing("write_bytes"))
    monkeypatch.setattr(os, "fsync", failing("fsync"))
    return calls


@pytest.mark.parametrize("call", [1, 2, 4])
def test_a_full_disk_leaves_older_results(capsys, copy, weights, monkeypatch, call):
    out = copy.parent / "out"
    (out / "anna").mkdir(parents=True)
    for name in OLD:
        (out / "anna" / name).write_text(f"older {name}")
    before = contents(out)
    with monkeypatch.context() as patch:
        calls = full_disk(patch, call)
        argv = ["fit", copy, "--out", out, "--weights", weights, "--views", "0"]
        refused(capsys, argv, "the disk is full", "free some space")
    assert len(calls) >= call
    after = contents(out)
    assert {name: after.get(name) for name in before} == before
