"""`jaxrecon fit` with input that is odd but usable: a warning, and it is done."""

import json

import numpy as np
from PIL import Image

from jaxrecon.cli.main import main
from tests.cli.bad_input import NAN
from tests.pipelines.views_folder import edit


def fitted(capsys, folder, weights, *more) -> tuple[dict, str]:
    """fit.json of a fit that worked, and what was said on stderr."""
    out = folder.parent / "out"
    argv = ["fit", folder, "--out", out, "--weights", weights, *more]
    assert main([str(a) for a in argv]) == 0
    result = out / folder.name
    assert {"mesh.ply", "mesh.glb", "report.html"} <= {p.name for p in result.iterdir()}
    return json.loads((result / "fit.json").read_text()), capsys.readouterr().err


def test_odd_landmarks_expressions_and_labels_are_told_and_done(capsys, copy, toy_weights):
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
    record, said = fitted(capsys, copy, toy_weights)
    assert record["expression"] == [0, 2, 3]
    for words in (
        "the expression of view_001.png, view_002.png is unknown",
        "2 of the 68 landmarks are not valid",
        "view_002.png: 1 seen landmarks lie outside the image",
    ):
        assert sum(words in warning for warning in record["warnings"]) == 1
        assert said.count(words) == 1
    assert "warning" in said and "error: " not in said


def test_one_view_is_told_and_done(capsys, copy, toy_weights):
    record, said = fitted(capsys, copy, toy_weights, "--views", "0")
    assert record["views"] == ["view_000.png"]
    assert any("one view only" in warning for warning in record["warnings"])
    assert "one view only" in said
