"""The report: one well-formed file that fetches nothing, escapes everything and holds the mesh."""

import base64
import dataclasses
import html.parser
import json
import re
import zlib

import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.pipelines import report_pictures
from jaxrecon.pipelines.report import ReportData, write_report
from jaxrecon.pipelines.report_parts import data_uri, loss_svg
from jaxrecon.types import Mesh
from tests.pipelines.report_data import HOSTILE, data, sphere

VOID = {"meta", "img", "br", "link", "input", "hr", "path", "polyline"}


class Page(html.parser.HTMLParser):
    """Collects elements, and the text of each script; notes tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.faults, self.scripts, self.text = [], [], [], [], ""
        self.feed(text)
        self.faults += [f"never closed: {t}" for t in self.open]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"stray </{tag}>")

    def handle_data(self, text):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += text
        else:
            self.text += text


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = write_report(tmp_path_factory.mktemp("report") / "report.html", data())
    return path, path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(written):
    return Page(written[1])


def test_well_formed_and_complete(page, written):
    assert page.faults == []
    assert {a.get("id") for _, a in page.elements} >= {
        "model", "views", "metrics", "losses", "timings", "details", "viewer", "mesh-data"
    }  # fmt: skip
    pictures = [a for t, a in page.elements if t == "img"]
    assert len(pictures) == 8 + 2 * 3 + 3
    assert all(a["alt"] for a in pictures)
    assert written[0].stat().st_size < 5_000_000
    assert sorted(p.name for p in written[0].parent.iterdir()) == ["report.html"]
    assert "{{" not in re.sub(re.escape("{{details}}"), "", written[1].replace("{{details}}", ""))


def test_nothing_is_fetched(page, written):
    for tag, attrs in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            if name in attrs:
                assert attrs[name].startswith("data:image/"), (tag, name)
        assert tag not in ("link", "iframe", "object", "embed", "base")
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest", written[1])
    policy = [
        a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy and policy[0].startswith("default-src 'none'")


def test_hostile_text_stays_text(page):
    assert [a.get("type") for t, a in page.elements if t == "script"] == ["application/json", None]
    assert not any(t == "b" for t, _ in page.elements)
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    # Title, heading, view, loss, stage, metric, setting (as JSON), warning, citation.
    assert page.text.count(HOSTILE) >= 7
    assert any(HOSTILE in a.get("alt", "") for _, a in page.elements)


def test_the_mesh_inside_is_the_mesh(page):
    model = json.loads(page.scripts[0])
    mesh, n, f = sphere(), model["vertices"], model["faces"]
    raw = zlib.decompress(base64.b64decode(model["data"]))
    assert len(raw) == 8 * n + 4 * n * 3 + 12 * f
    low, high = np.array(model["low"]), np.array(model["high"])
    positions = (
        np.frombuffer(raw, "<u2", 4 * n).reshape(n, 4)[:, :3] / 65535 * (high - low)[None]
        + low[None]
    )
    np.testing.assert_allclose(positions, mesh.vertices, atol=200 / 65535)
    normals = np.frombuffer(raw, "i1", 4 * n, 8 * n).reshape(n, 4)[:, :3] / 127
    outward = mesh.vertices - mesh.vertices.mean(0)[None]
    assert ((normals * outward).sum(1) / 100 > 0.95).all()
    colours = np.frombuffer(raw, "u1", 4 * n, 12 * n).reshape(n, 4)[:, :3] / 255
    np.testing.assert_allclose(colours, mesh.colours, atol=1 / 255)
    errors = np.frombuffer(raw, "u1", 4 * n, 16 * n).reshape(n, 4)[:, :3] / 255
    np.testing.assert_allclose(errors[0], report_pictures.UNKNOWN, atol=1 / 255)
    np.testing.assert_allclose(errors[5], report_pictures.VIRIDIS[0], atol=0.05)
    faces = np.cumsum(np.frombuffer(raw, "<i4", 3 * f, 20 * n)).reshape(f, 3)
    np.testing.assert_array_equal(faces, mesh.faces)


def test_only_a_mesh_is_needed(tmp_path):
    mesh = dataclasses.replace(sphere(), colours=None)
    page = Page(
        write_report(tmp_path / "r.html", ReportData(mesh=mesh)).read_text(encoding="utf-8")
    )
    assert page.faults == []
    ids = {a.get("id") for _, a in page.elements}
    assert "viewer" in ids and not ids & {"views", "metrics", "losses", "timings"}
    model = json.loads(page.scripts[0])
    assert model["coloured"] is False and model["error"] is False


def test_large_meshes_are_shown_coarser():
    mesh = sphere(60, 90)
    attributes = [np.asarray(mesh.colours)]
    v, f, (c,) = report_pictures.simplify(np.asarray(mesh.vertices), mesh.faces, attributes, 3000)
    assert 500 < len(f) <= 3000 and f.max() < len(v) == len(c)
    radius = np.linalg.norm(v - np.array([[500.0, 0, -300]]), axis=1)
    assert 90 < radius.min() and radius.max() < 101


def test_renders_and_normal_maps_of_a_ball():
    given = data()
    render = report_pictures.render_mesh_views(given.mesh, given.cameras, 48, 48)
    normals = report_pictures.normal_maps(given.mesh, given.cameras, 48, 48)
    assert len(render) == len(normals) == 2 and render[0].shape == (48, 48, 4)
    # A ball of radius 100 at 350: the silhouette's radius is 60 * 100 / sqrt(350^2 - 100^2) = 17.9
    # pixels.
    area = (render[0][..., 3] / 255.0).sum()
    assert abs(area - np.pi * 17.9**2) < 0.04 * area  # the ball is faceted
    np.testing.assert_allclose(render[0][24, 24, :3] / 255, [0.9, 0.45, 0.1], atol=0.01)
    assert (render[0][0, 0] == [255, 255, 255, 0]).all()
    n = normals[0][..., :3] / 127.5 - 1
    np.testing.assert_allclose(n[24, 24], [0, 0, 1], atol=0.1)
    assert n[24, 38, 0] > 0.6 and n[24, 10, 0] < -0.6  # red to the right
    assert n[10, 24, 1] > 0.6 and n[38, 24, 1] < -0.6  # green up


def test_turntable_turns():
    mesh = sphere()
    side = np.asarray(mesh.colours).copy()
    side[mesh.vertices[:, 0] > 540] = [0.1, 0.1, 0.9]  # the side at +x
    pictures = report_pictures.turntable(dataclasses.replace(mesh, colours=side), 4, 40)
    blue = [int(p[20, 20, 2]) - int(p[20, 20, 0]) for p in pictures]
    assert blue[1] > 50 and all(blue[i] < 0 for i in (0, 2, 3))
    assert all(0.3 < (p[..., 3] > 127).mean() < 0.9 for p in pictures)


def test_colour_bar_limits_and_colours():
    assert report_pictures.error_limit(np.linspace(0, 1, 101)) == 1.0
    assert report_pictures.error_limit(np.full(9, 2.4)) == 3.0
    assert report_pictures.error_limit(np.array([np.nan, 0.031])) == pytest.approx(0.05)
    assert report_pictures.error_limit(np.array([np.nan])) == 1.0
    rgb = report_pictures.colour_map(np.array([-1.0, 0.0, 1.0, 9.0, np.nan]))
    np.testing.assert_array_equal(rgb[0], rgb[1])
    np.testing.assert_array_equal(rgb[2], rgb[3])
    brightness = report_pictures.colour_map(np.linspace(0, 1, 30)) @ np.array(
        [0.2126, 0.7152, 0.0722]
    )
    assert (np.diff(brightness) > 0).all()


def test_loss_curves():
    falling = loss_svg("total", 10.0 ** -np.arange(5))
    assert "(log scale)" in falling
    xy = [
        tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]*)"', falling)[1].split()
    ]
    np.testing.assert_allclose([y for _, y in xy], np.linspace(12, 108, 5))
    assert "1 values are not finite" in loss_svg("odd", [1.0, np.inf, 2.0])
    assert "no finite values" in loss_svg("gone", [np.nan])
    assert "polyline" in loss_svg("one", [3.0])


def test_pictures_are_stored_small():
    from io import BytesIO

    from PIL import Image

    uri = data_uri(np.zeros((300, 600, 4), np.float32), 100)
    kind, body = uri.split(";base64,")
    image = Image.open(BytesIO(base64.b64decode(body)))
    assert kind == "data:image/png" and image.size == (100, 50)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": np.ones((1, 48, 48))}, "1 masks for 2 images"),
        ({"error": np.zeros(3)}, "one per vertex"),
        ({"mesh": Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))}, "empty mesh"),
        ({"mesh": Mesh(np.full((3, 3), np.nan), np.array([[0, 1, 2]]))}, "NaN"),
    ],
)
def test_bad_data(tmp_path, changes, message):
    if "mesh" in changes:
        changes = {**changes, "error": None}
    with pytest.raises(InputError, match=message):
        write_report(tmp_path / "r.html", data(**changes))
    assert not list(tmp_path.iterdir())
