"""`jaxrecon fit`, killed or stopped at bad moments and resumed, ends with the same bits.

`python -m benchmarks.kill_fit` does the same at random moments.
"""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from data_pipelines.render_head import render_subject
from tests.pipelines.queue_subjects import results, write_subjects
from tests.pipelines.toy_prior import VIEWS

SCRIPT = pathlib.Path(__file__).with_name("killed_fit.py")
NEVER = (0, [10, 20, 30])


@pytest.fixture(scope="module")
def fit(toy_model, toy_weights, tmp_path_factory):
    """Run the command in a process of its own: (exit status, steps told, stderr)."""
    folder = tmp_path_factory.mktemp("killed")
    rendered = render_subject(toy_model, 3, folder / "rendered", VIEWS)
    write_subjects(rendered, folder / "subjects", "anna", "bert")

    def call(moment, out, *more):
        argv = [moment, folder / "subjects", "--out", out, "--weights", toy_weights, *more]
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *map(str, argv)],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"XLA_FLAGS": ""},  # one device: less to start
        )
        steps = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("steps")]
        return done.returncode, [int(n) for n in steps], done.stderr

    return call


@pytest.fixture(scope="module")
def whole(fit, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert fit("never", out)[:2] == NEVER
    found = results(out)
    assert len(found) == 8
    return found


@pytest.mark.parametrize(
    ("moment", "status", "before", "after"),
    [
        ("saving", -signal.SIGKILL, [10], [20, 30]),
        ("step", 128 + signal.SIGTERM, [10, 20], [30]),
        ("files", -signal.SIGKILL, [10, 20, 30], []),
    ],
)
def test_killed_and_resumed_is_bit_equal(fit, whole, tmp_path, moment, status, before, after):
    code, steps, said = fit(moment, tmp_path)
    assert (code, steps) == (status, before), said
    assert len(list((tmp_path / ".fit").glob("[!.]*"))) == 1
    assert ("--resume" in said) == (moment == "step")
    partial = results(tmp_path)
    assert (len([name for name in partial if ".new" not in name]) > 2) == (moment == "files")
    code, steps, said = fit("never", tmp_path, "--resume")
    assert (code, steps) == (0, after), said
    assert results(tmp_path) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anna", "bert"]
