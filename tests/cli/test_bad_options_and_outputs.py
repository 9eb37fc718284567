"""`jaxrecon fit` with bad options, weights and output folders, and when the disk fills: older
results stay.
"""

import errno
import os
import pathlib

import pytest

from jaxrecon.interop.weights import load_weights, save_weights
from tests.cli.bad_input import contents, refused, write_old


def test_bad_options_are_refused(capsys, subject, tmp_path):
    out = tmp_path / "out"
    before = contents(out)
    twin = tmp_path / "other" / "anna"
    twin.mkdir(parents=True)
    for more, *words in (
        (["--views", "0,3"], "views 0,3", "from 0 to 2"),
        (["--views", "1,1"], "views 1,1", "different"),
        (["--views", "one"], "--views one"),
        (["--views", ""], "--views"),
        (["--seed", "-1"], "--seed -1"),
        (["--resolution", "30"], "--resolution 30"),
        (["--resolution", "4096"], "--resolution 4096"),
        (["--weights", tmp_path / "absent"], "absent.safetensors"),
    ):
        refused(capsys, ["fit", subject, "--out", out, *more], *words)
    refused(capsys, ["fit", subject, twin, "--out", out], "called anna")
    refused(capsys, ["fit", tmp_path / "absent", "--out", out], "no such folder", "absent")
    refused(capsys, ["fit", "--out", out], "no VIEWS")
    assert contents(out) == before


def test_bad_weights_are_refused(capsys, subject, toy_weights, tmp_path):
    out, before = tmp_path / "out", contents(tmp_path / "out")
    tree, header = load_weights(toy_weights)
    own = tmp_path / "own"
    argv = ["fit", subject, "--out", out, "--weights", own]
    arrays, names = own.with_suffix(".safetensors"), own.with_suffix(".json")

    def fresh(**changes):
        save_weights(own, tree, {k: v for k, v in header.items() if k != "format"} | changes)

    fresh(system="pifu")
    refused(capsys, argv, "own", "not weights of implicit_deformation")
    fresh(network=header["network"] | {"features": 9})
    refused(capsys, argv, "own", "do not fit")
    for damage in (lambda d: d[: len(d) // 2], lambda d: b"\xff" * 8 + d[8:], lambda d: b""):
        fresh()
        arrays.write_bytes(damage(arrays.read_bytes()))
        refused(capsys, argv, "own.safetensors")
    for text in ("", "[]", "{}", '{"format": NaN}'):
        fresh()
        names.write_text(text)
        refused(capsys, argv, "own.json")
    assert contents(out) == before


def test_outputs_that_cannot_be_written(capsys, subject, tmp_path, monkeypatch):
    photo = subject / "view_000.png"
    data = photo.read_bytes()
    refused(capsys, ["fit", subject, "--out", photo], "view_000.png", "a file")
    refused(capsys, ["fit", subject, "--out", photo / "below"], "view_000.png")
    assert photo.read_bytes() == data
    refused(capsys, ["fit", subject, "--out", tmp_path / ("a" * 300)], "cannot make the folder")
    if pathlib.Path("/proc/self").is_dir():  # nobody may make folders there, root neither
        refused(capsys, ["fit", subject, "--out", "/proc/self/jaxrecon"], "/proc/self/jaxrecon")
    out, before = tmp_path / "out", contents(tmp_path / "out")
    for code, words in ((errno.EACCES, "no permission"), (errno.EROFS, "no permission")):

        def touch(self, code=code, **_):
            raise OSError(code, os.strerror(code), str(self))

        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "touch", touch)
            refused(capsys, ["fit", subject, "--out", out], words, str(out))
    assert contents(out) == before
    if os.geteuid():  # root may write everywhere
        (out / "anna").chmod(0o500)
        refused(capsys, ["fit", subject, "--out", out], "no permission")
        (out / "anna").chmod(0o700)
        assert contents(out) == before


# ---------------------------------------------------------------- the disk fills while we write


def full_disk(monkeypatch, call):
    """No space from the `call`-th on: when a file is written or flushed."""
    real = {"write_bytes": pathlib.Path.write_bytes, "fsync": os.fsync}

    def failing(name):
        def act(*args, **options):
            calls.append(name)
            if len(calls) >= call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real[name](*args, **options)

        return act

    calls = []
    monkeypatch.setattr(pathlib.Path, "write_bytes", failing("write_bytes"))
    monkeypatch.setattr(os, "fsync", failing("fsync"))
    return calls


@pytest.mark.parametrize("call", [1, 2, 4])
def test_a_full_disk_leaves_older_results(capsys, copy, toy_weights, monkeypatch, call):
    out = copy.parent / "out"
    write_old(out)
    before = contents(out)
    with monkeypatch.context() as patch:
        calls = full_disk(patch, call)
        argv = ["fit", copy, "--out", out, "--weights", toy_weights, "--views", "0"]
        refused(capsys, argv, "the disk is full", "free some space")
    assert len(calls) >= call
    after = contents(out)
    assert {name: after.get(name) for name in before} == before
