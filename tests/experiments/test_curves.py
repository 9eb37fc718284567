"""Curves of a run: what is read is what was logged, and the picture names it."""

import json

import pytest

from experiments.implicit_deformation import curves
from jaxrecon.errors import InputError


def write(folder, records):
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(r) + "\n" for r in records)
    (folder / "metrics.jsonl").write_text(text)
    return folder / "metrics.jsonl"


def test_the_last_record_of_a_step_counts(tmp_path):
    path = write(
        tmp_path / "run",
        [
            {"stage": "a", "step": 20, "loss": 2.0},
            {"stage": "a", "step": 10, "loss": 3.0},
            {"stage": "a", "step": 20, "loss": 1.0},
        ],
    )
    assert curves.read_metrics(path) == {"a": {"loss": [(10, 3.0), (20, 1.0)]}}


@pytest.mark.parametrize("text", ["no json\n", "[1]\n", '{"stage": "a"}\n', '{"step": 1}\n'])
def test_what_is_no_record_is_refused_with_its_line(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"stage": "a", "step": 1, "loss": 1.0}) + "\n" + text)
    with pytest.raises(InputError, match="line 2"):
        curves.read_metrics(path)


def test_the_picture_shows_losses_and_unseen_people(tmp_path):
    pytest.importorskip("matplotlib")
    records = [
        {
            "stage": "deformation",
            "step": s,
            "loss": 1 / s,
            "held_out_mm": 2 / s,
            "held_out_cosine": 1.0,
        }
        for s in (10, 20, 30)
    ]
    write(tmp_path / "run", records)
    out = tmp_path / "pictures" / "curves.svg"
    assert curves.main(curves.Arguments(tmp_path / "run", out)) == 0
    text = out.read_text()
    assert "deformation: terms of the loss" in text and "unseen people (mm)" in text
    assert not list(out.parent.glob(".*"))
    first = out.read_bytes()
    assert curves.main(curves.Arguments(tmp_path / "run", out)) == 0
    assert out.read_bytes() == first


def test_a_missing_run_is_one_clear_error(tmp_path, capsys):
    assert curves.main(curves.Arguments(tmp_path, tmp_path / "c.svg")) == 2
    assert "metrics.jsonl: no such file" in capsys.readouterr().err
    assert curves.main(curves.Arguments(tmp_path, tmp_path / "c.txt")) == 2
