"""The example of the section "Faces" of models.md runs as it stands, on a head model of ours."""

import pathlib
import re

import numpy as np

from data_pipelines.synthetic_head import synthetic_head
from jaxrecon.models.parametric.albedo_basis import albedo_arrays

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "how-to" / "models.md"


def test_faces(tmp_path, monkeypatch, capsys):
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (block,) = (c for c in code if "load_deep3d_model" in c)
    arrays = synthetic_head()
    np.savez(tmp_path / "ict_head.npz", **arrays, **albedo_arrays(arrays, 4))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102
    assert len(names["face"].colours) == len(names["model"].face.mean)
    pixels = np.asarray(names["pixels"])
    assert ((pixels > 0) & (pixels < 224)).mean() > 0.5 and (np.asarray(names["depth"]) > 5).all()
    assert "3)" in capsys.readouterr().out
