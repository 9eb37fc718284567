"""A run killed at any moment goes on to the same bits."""

import os
import pathlib
import signal
import subprocess
import sys

import numpy as np

SCRIPT = pathlib.Path(__file__).with_name("killed_training.py")


def train(*arguments):
    """(exit status, first steps) of one process."""
    environment = os.environ | {"XLA_FLAGS": ""}  # one device: less to start
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, [int(word) for word in done.stdout.split() if word != "start"]


def half_written(folder):
    return [path.name for path in folder.iterdir() if "tmp" in path.name]


def complete(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_killed_three_times_and_resumed_is_bit_equal(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    # While the very first save is being written: nothing to resume from.
    assert train(killed, "during:4") == (-signal.SIGKILL, [0])
    assert complete(killed) == [] and len(half_written(killed)) == 1
    # After a save, with the first one repeated over its remains.
    assert train(killed, "after:8") == (-signal.SIGKILL, [0])
    assert complete(killed) == [4, 8]
    # While a later save is being written: the one before it counts.
    assert train(killed, "during:16") == (-signal.SIGKILL, [8])
    assert complete(killed) == [8, 12] and len(half_written(killed)) == 1
    # To the end; and a run that nothing interrupts, in the same process to save time.
    assert train(killed, whole) == (0, [12, 0])

    with np.load(whole / "final.npz") as expected, np.load(killed / "final.npz") as final:
        assert expected.files == final.files and len(final.files) > 10
        for name in expected.files:
            np.testing.assert_array_equal(final[name], expected[name], err_msg=name)
