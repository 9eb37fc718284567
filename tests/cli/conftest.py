"""Folders that the tests of bad input spoil, and fits that are tiny."""

import pathlib
import shutil

import pytest

from tests.cli.bad_input import write_old
from tests.pipelines.views_folder import write_views


@pytest.fixture
def subject(tmp_path, rng) -> pathlib.Path:
    """A folder to spoil; ../out holds older results of it."""
    folder = tmp_path / "anna"
    folder.mkdir()
    write_old(tmp_path / "out")
    return write_views(folder, rng)


@pytest.fixture(scope="session")
def photographs(toy_model, tmp_path_factory) -> pathlib.Path:
    """Three views of two expressions."""
    from data_pipelines.render_head import render_subject
    from tests.pipelines.toy_prior import VIEWS

    return render_subject(toy_model, 3, tmp_path_factory.mktemp("views") / "anna", VIEWS)


@pytest.fixture
def copy(photographs, tmp_path, monkeypatch) -> pathlib.Path:
    """A copy of the photographs to change; fits are tiny."""
    from jaxrecon.pipelines import implicit_deformation as pipeline
    from tests.pipelines.toy_prior import FIT

    monkeypatch.setitem(pipeline.PRESETS, "fast", pipeline.Preset(FIT, resolution=32))
    return pathlib.Path(shutil.copytree(photographs, tmp_path / "anna"))
