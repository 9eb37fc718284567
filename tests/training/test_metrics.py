"""Metrics of a run that was killed, and what progress tells."""

import itertools
import json
import os
import sys
import types

import pytest

from jaxrecon.training import loop, metrics
from jaxrecon.training.checkpoints import Checkpoints
from tests.training.test_loop import batches, fresh, lines, step


def test_lines_after_a_step_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics.drop_after(path, "a", 0)  # nothing there: nothing to do
    assert not path.exists()
    for at in (10, 20, 30):
        metrics.append(path, "a", at, {"loss": 1.0 / at})
        metrics.append(path, "b", at, {"loss": float("nan")})
    with open(path, "a") as file:
        file.write('{"stage": "b", "st')  # a kill in the middle of a line
    metrics.drop_after(path, "a", 20)
    assert [(x["stage"], x["step"]) for x in lines(path)] == [
        ("a", 10), ("b", 10), ("a", 20), ("b", 20), ("b", 30),
    ]  # fmt: skip
    assert os.listdir(tmp_path) == ["metrics.jsonl"]
    before = path.stat()
    metrics.drop_after(path, "a", 20)  # sound already: left alone
    assert path.stat().st_ino == before.st_ino and path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_failed_replacement_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    metrics.append(path, "a", 10, {})
    text = path.read_text()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        metrics.drop_after(path, "a", 0)
    assert path.read_text() == text


class Killed(Exception):
    pass


def test_a_killed_run_repeats_no_line(tmp_path):
    """Metrics were logged up to step 14 when it died; the last save is that of step 10."""

    def dying(start):
        for i, batch in enumerate(batches(start), start):
            if i == 14:
                raise Killed
            yield batch

    path = tmp_path / "metrics.jsonl"
    options = {"save_every": 5, "log_every": 2, "metrics_file": path}
    checkpoints = Checkpoints(tmp_path / "run")
    with pytest.raises(Killed):
        loop.run(fresh(), step, dying, 20, checkpoints=checkpoints, **options)
    checkpoints.close()
    killed = lines(path)
    assert [x["step"] for x in killed] == [2, 4, 6, 8, 10, 12, 14]
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.latest() == 10
    loop.run(fresh(), step, batches, 20, checkpoints=checkpoints, **options)
    checkpoints.close()
    resumed = lines(path)
    assert [x["step"] for x in resumed] == list(range(2, 21, 2))
    assert resumed[:7] == killed  # the lines written again are those that were dropped


def test_a_deadline_stops_after_a_step_and_saves(tmp_path, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=clock.__next__))
    checkpoints = Checkpoints(tmp_path / "run")
    state, finished = loop.run(
        fresh(), step, batches, 20, checkpoints=checkpoints, log_every=50, deadline=6.5
    )
    assert not finished and state.step == 7 and checkpoints.latest() == 7
    monkeypatch.undo()
    state, finished = loop.run(fresh(), step, batches, 20, checkpoints=checkpoints, deadline=0.0)
    assert not finished  # long past: not one step more
    checkpoints.close()


def test_progress(monkeypatch, capsys):
    clock = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr(metrics, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    progress = metrics.Progress("stage", 200)
    for done in (50, 100, 150):
        progress.show(done, {"loss": 0.25})
    progress.close()
    assert capsys.readouterr().err.splitlines() == [
        "stage 50/200  loss 0.25",
        "stage 100/200  5.0 steps/s  ETA 20 s  loss 0.25",
        "stage 150/200  5.0 steps/s  ETA 10 s  loss 0.25",
    ]
    clock = iter([0.0, 100.0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = metrics.Progress("stage", 200)
    progress.show(50, {})
    progress.show(100, {})
    progress.close()
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and text.endswith("\n")
    assert f"[{'#' * 12}{'.' * 12}] 100/200  0.5 steps/s  ETA 3 min" in text


def test_metrics_lines_are_json(tmp_path):
    metrics.append(tmp_path / "m", "a", 1, {"x": float("inf"), "y": 2.0})
    assert json.loads((tmp_path / "m").read_text()) == {
        "stage": "a", "step": 1, "x": None, "y": 2.0,
    }  # fmt: skip
