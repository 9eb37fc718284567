"""Subjects and sizes for tests of the queue, in this process or in one that is killed."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np

from jaxrecon.pipelines.implicit_deformation import Preset
from tests.pipelines.toy_prior import FIT

PRESET = Preset(dataclasses.replace(FIT, weight_steps=20, residual_steps=10), resolution=32)
"""Three calls of ten steps, and so one compilation."""


def write_subjects(source: pathlib.Path, folder: pathlib.Path, *names: str) -> list[pathlib.Path]:
    """Views folders of two views each, of one expression and without ground truth: those of
    `source`, with cameras that differ a little from subject to subject.
    """
    paths = []
    for number, name in enumerate(names):
        path = folder / name
        shutil.copytree(source, path, ignore=shutil.ignore_patterns("gt*", "view_002*"))
        document = json.loads((path / "cameras.json").read_text())
        document["views"] = [dict(view) for view in document["views"][:2]]
        for view in document["views"]:
            view.pop("gt", None)
            view["t"] = (np.array(view["t"]) + [0.0, 0.0, 2.0 * number]).tolist()
        (path / "cameras.json").write_text(json.dumps(document))
        marks = json.loads((path / "landmarks.json").read_text())
        for key in ("landmarks2d", "visible"):
            marks[key] = marks[key][:2]
        (path / "landmarks.json").write_text(json.dumps(marks))
        paths.append(path)
    return paths


def results(out: pathlib.Path) -> dict[str, bytes | dict]:
    """Everything below an output folder that must not depend on interruptions."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.name == "fit.json":
            found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
        elif path.is_file() and path.name != "report.html":  # it shows seconds
            found[name] = path.read_bytes()
    return found
