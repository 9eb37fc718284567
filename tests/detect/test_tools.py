"""MediaPipe and dlib behind stand-ins that have their documented interfaces."""

import sys
import types

import numpy as np
import pytest

from jaxrecon.detect.dlib_faces import dlib_detector
from jaxrecon.detect.mediapipe_faces import (
    MESH_TO_68,
    landmarks_of_mesh,
    mediapipe_detector,
)
from jaxrecon.detect.tools import require
from jaxrecon.errors import InputError

IMAGE = np.zeros((60, 80, 3), np.uint8)
RIGHT_TO_LEFT = {  # of MediaPipe's mesh, whose left and right are the subject's
    127: 356, 234: 454, 93: 323, 132: 361, 58: 288, 172: 397, 136: 365, 150: 379, 176: 400,
    70: 300, 63: 293, 105: 334, 66: 296, 107: 336, 98: 327, 97: 326, 33: 263, 160: 387, 158: 385,
    133: 362, 153: 380, 144: 373, 61: 291, 39: 269, 37: 267, 84: 314, 91: 321, 78: 308, 82: 312,
    87: 317,
}  # fmt: skip
MIDDLE = {152, 168, 6, 197, 195, 5, 4, 2, 0, 17, 13, 14}
MIRROR_68 = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    + [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)


def test_the_table_is_symmetric():
    """Each landmark's mirror is made of the mirrors of its points; none stands for two."""
    mirror = RIGHT_TO_LEFT | {v: k for k, v in RIGHT_TO_LEFT.items()} | {m: m for m in MIDDLE}
    assert MESH_TO_68.shape == (68, 2) and set(mirror) == set(MESH_TO_68.ravel().tolist())
    rows = [frozenset(row) for row in MESH_TO_68.tolist()]
    assert len(set(rows)) == 68
    for i, row in enumerate(rows):
        assert frozenset(mirror[p] for p in row) == rows[MIRROR_68[i]], i
    right = {p for i in (*range(8), *range(17, 22), *range(36, 42)) for p in rows[i]}
    assert right <= set(RIGHT_TO_LEFT)


class _Result:
    def __init__(self, faces):
        self.face_landmarks = faces


def _landmark(x, y, presence):
    return types.SimpleNamespace(x=x, y=y, z=0.0, visibility=None, presence=presence)


def _fake_mediapipe(faces, seen):
    """mediapipe.Image and mediapipe.tasks, as far as they are documented."""

    class Landmarker:
        @classmethod
        def create_from_options(cls, options):
            seen["options"] = options
            with open(options.base_options.model_asset_path, "rb") as file:
                if file.read() != b"model":
                    raise RuntimeError("Unable to open zip archive.")
            return cls()

        def detect(self, image):
            assert image.image_format == "SRGB" and image.data.flags.c_contiguous
            assert image.data.dtype == np.uint8 and image.data.shape[2] == 3
            return _Result(faces)

    def options(*, base_options, num_faces=1, running_mode="IMAGE"):
        return types.SimpleNamespace(base_options=base_options, num_faces=num_faces)

    module = types.ModuleType("mediapipe")
    module.Image = lambda *, image_format, data: types.SimpleNamespace(
        image_format=image_format, data=data
    )
    module.ImageFormat = types.SimpleNamespace(SRGB="SRGB")
    module.tasks = types.SimpleNamespace(
        BaseOptions=lambda *, model_asset_path: types.SimpleNamespace(
            model_asset_path=model_asset_path
        ),
        vision=types.SimpleNamespace(FaceLandmarker=Landmarker, FaceLandmarkerOptions=options),
    )
    return module


def _mesh(scale, count=478):
    places = 0.5 + scale * (np.random.default_rng(0).uniform(size=(count, 2)) - 0.5)
    return places


def _faces(*scales, presence=lambda i: None, count=478):
    return [
        [_landmark(x, y, presence(i)) for i, (x, y) in enumerate(_mesh(s, count))] for s in scales
    ]


@pytest.fixture
def task(tmp_path):
    (tmp_path / "face_landmarker.task").write_bytes(b"model")
    return tmp_path / "face_landmarker.task"


def _run(monkeypatch, task, faces):
    seen = {}
    monkeypatch.setitem(sys.modules, "mediapipe", _fake_mediapipe(faces, seen))
    return mediapipe_detector(task, faces=3)(IMAGE[:, ::-1]), seen


@pytest.mark.parametrize("count", [468, 478])
def test_mediapipe(monkeypatch, task, count):
    """Shares of width and height from the corner are our pixels; the largest face comes first."""
    found, seen = _run(monkeypatch, task, _faces(0.2, 0.6, count=count))
    assert seen["options"].num_faces == 3 and len(found.faces) == 2 and found.size == (60, 80)
    small, large = _mesh(0.2, count) * [80, 60], _mesh(0.6, count) * [80, 60]
    np.testing.assert_allclose(found.faces[0].landmarks, landmarks_of_mesh(large), atol=1e-4)
    np.testing.assert_allclose(found.faces[1].landmarks[36], small[33], atol=1e-4)
    np.testing.assert_allclose(found.faces[1].landmarks[27], (small[168] + small[6]) / 2, atol=1e-4)
    assert found.face.confidence is None and "face_landmarker.task" in found.sources["landmarks"]


def test_presence_is_confidence(monkeypatch, task):
    found, _ = _run(monkeypatch, task, _faces(0.5, presence=lambda i: i / 500))
    assert found.face.confidence[36] == np.float32(33 / 500)
    assert found.face.confidence[27] == np.float32(6 / 500)  # the less sure of the two


@pytest.mark.parametrize("presence", [lambda i: 0.0, lambda i: i - 200.0])
def test_unset_presence_and_logits_say_nothing(monkeypatch, task, presence):
    found, _ = _run(monkeypatch, task, _faces(0.5, presence=presence))
    assert found.face.confidence is None


def test_nobody(monkeypatch, task):
    found, _ = _run(monkeypatch, task, [])
    assert found.faces == () and not found.sources


def test_a_model_that_mediapipe_refuses(monkeypatch, task):
    task.write_bytes(b"other")
    with pytest.raises(InputError, match=r"face_landmarker.task: MediaPipe does not .*zip archive"):
        _run(monkeypatch, task, [])


def test_a_mesh_of_another_size(monkeypatch, task):
    with pytest.raises(InputError, match="a mesh of 300 points"):
        _run(monkeypatch, task, _faces(0.5, count=300))


# ---------------------------------------------------------------- dlib


class _Rectangle:
    """dlib.rectangle: the last pixel is part of it."""

    def __init__(self, *sides):
        self._sides = sides

    def left(self):
        return self._sides[0]

    def top(self):
        return self._sides[1]

    def right(self):
        return self._sides[2]

    def bottom(self):
        return self._sides[3]


class _Shape:
    def __init__(self, count, offset):
        self.num_parts, self._offset = count, offset

    def part(self, i):
        assert 0 <= i < self.num_parts
        return types.SimpleNamespace(x=self._offset + i, y=2 * i)


def _fake_dlib(count, seen):
    class Detector:
        def run(self, image, upsample, threshold):
            assert image.dtype == np.uint8 and image.flags.c_contiguous
            seen["arguments"] = (upsample, threshold)
            rectangles = [_Rectangle(10, 20, 29, 39), _Rectangle(40, 20, 59, 39)]
            return rectangles, [0.1, 1.5], [0, 3]

    class Predictor:
        def __init__(self, path):
            with open(path, "rb") as file:
                if file.read() != b"model":
                    raise RuntimeError("Error deserializing object of type int")

        def __call__(self, image, rectangle):
            return _Shape(count, rectangle.left())

    module = types.ModuleType("dlib")
    vars(module).update(get_frontal_face_detector=Detector, shape_predictor=Predictor)
    return module


def _dlib(monkeypatch, tmp_path, count=68, content=b"model"):
    seen = {}
    (tmp_path / "p.dat").write_bytes(content)
    monkeypatch.setitem(sys.modules, "dlib", _fake_dlib(count, seen))
    return dlib_detector(tmp_path / "p.dat")(IMAGE[::-1]), seen


def test_dlib(monkeypatch, tmp_path):
    """Half a pixel is added, rectangles end behind their last pixel, the surest comes first."""
    found, seen = _dlib(monkeypatch, tmp_path)
    best, second = found.faces
    np.testing.assert_array_equal(best.landmarks[3], [43.5, 6.5])
    assert best.box.tolist() == [40, 20, 60, 40] and second.box.tolist() == [10, 20, 30, 40]
    assert abs(best.score - 1 / (1 + np.exp(-1.5))) < 1e-12 and second.score < best.score
    assert seen["arguments"] == (1, 0.0) and found.sources == {"landmarks": "dlib (p.dat)"}


def test_dlib_models_that_do_not_do(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="p.dat places 5 points"):
        _dlib(monkeypatch, tmp_path, count=5)
    with pytest.raises(InputError, match="p.dat: dlib does not take it .*deserializing"):
        _dlib(monkeypatch, tmp_path, content=b"bz2")


# ---------------------------------------------------------------- absent


@pytest.mark.parametrize(
    ("make", "package"), [(mediapipe_detector, "mediapipe"), (dlib_detector, "dlib")]
)
def test_packages_and_models_are_the_users(monkeypatch, tmp_path, make, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"needs the package {package}") as error:
        make(tmp_path / "model")
    assert error.value.remedy == f"python -m pip install {package}"
    monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    with pytest.raises(InputError, match="no file at") as error:
        make(tmp_path / "model")
    assert error.value.expected and error.value.remedy


def test_absent_and_broken_packages_differ(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="no_such_module_xyz, which is not installed"):
        require("no_such_module_xyz", "xyz", "a test")
    (tmp_path / "broken_module_xyz.py").write_text("import no_such_module_xyz\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="cannot be imported .*no_such_module_xyz"):
        require("broken_module_xyz", "xyz", "a test")
