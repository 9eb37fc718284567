"""What the tests of bad input share: ways to spoil the folder of `views_folder`, and what every
refusal must be: one clear message, exit code 2, older results byte for byte as they were.
"""

import pathlib

import hypothesis
import numpy as np
from PIL import Image

from jaxrecon.cli.main import main
from jaxrecon.errors import InputError
from jaxrecon.pipelines.views import load_views
from tests.pipelines.views_folder import HEIGHT, WIDTH

OLD = ("mesh.ply", "mesh.glb", "fit.json", "state.npz", "report.html", "mesh_view_007.ply")
"""Files of an older result."""
NAN = float("nan")
SOME = hypothesis.settings(
    max_examples=150,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Everything below a folder."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def write_old(out: pathlib.Path) -> None:
    """An older result of the subject anna."""
    (out / "anna").mkdir(parents=True)
    for name in OLD:
        (out / "anna" / name).write_text(f"older {name}")


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


def refuses_folder(capsys, subject: pathlib.Path, spoil, *words) -> None:
    """`jaxrecon fit` without a detector refuses a spoiled folder and leaves older results alone."""
    out = subject.parent / "out"
    spoil(subject)
    before = contents(out)
    text = refused(capsys, ["fit", subject, "--out", out, "--detector", "none"], *words)
    assert "anna" in text  # which subject
    assert contents(out) == before and len(before) == len(OLD)


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
    """Replaces a file by a folder."""

    def spoil(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return spoil


def picture(name, mode="L", size=(WIDTH, HEIGHT), colour=0):
    """Replaces a file by a picture of one colour."""
    return lambda folder: Image.new(mode, size, colour).save(folder / name)


def label_image(value, names='{"labels": "bisenet"}', size=(WIDTH, HEIGHT)):
    """Adds labels of one number to the first view."""

    def spoil(folder):
        Image.new("L", size, value).save(folder / "view_000_labels.png")
        (folder / "labels.json").write_text(names)

    return spoil
