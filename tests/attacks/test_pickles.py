"""Hostile pickles are refused with one clear error, in bounded memory, and run nothing."""

import pickle
import tracemalloc

import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.interop.object_arrays import read_npz_objects
from jaxrecon.interop.torch_files import read_checkpoint
from jaxrecon.interop.unpickling import read_pickle
from tests.attacks.pickles import HARMLESS, PICKLES
from tests.interop.foreign_files import legacy_container, zip_container


def refused(read, path) -> InputError:
    """The one error of a reader: short, with the file's name, found without much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    error = caught.value
    assert error.given.startswith(f"{path}: "), error.given
    assert "\n" not in error.given and len(error.given) < len(str(path)) + 320
    assert "Type-check" not in error.given and error.expected
    assert peak < 150e6 + 4 * path.stat().st_size
    return error


@pytest.fixture
def canary(tmp_path):
    """(command, path that it would create); the test fails if it was."""
    path = tmp_path / "canary"
    yield f"touch {path}", path
    assert not path.exists()


def test_the_canary_sings(tmp_path):
    """Under pickle itself the attacks are real."""
    for which in ("reduce, protocol 4", "posix.system", "nested in a list of a dict", "OBJ"):
        path = tmp_path / which.replace(" ", "_").replace(",", "")
        pickle.loads(PICKLES[which](f"touch {path}"))  # noqa: S301
        assert path.exists()


@pytest.mark.parametrize("which", PICKLES)
def test_hostile_pickles(which, canary, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrecon.interop.pickle_values.MAX_OPCODES", 10_000)
    path = tmp_path / "model.pkl"
    path.write_bytes(PICKLES[which](canary[0]))
    refused(read_pickle, path)


@pytest.mark.parametrize("which", HARMLESS)
def test_what_exhausts_others_is_read(which, tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(HARMLESS[which])
    assert read_pickle(path) == {}


RUNNING = [
    "os.system",
    "eval",
    "getattr",
    "nested in a list of a dict",
    "NEWOBJ",
    "OBJ",
    "STACK_GLOBAL",
    "a dotted name",
    "a billion laughs",
    "a list that holds itself",
    "an array of 8 EiB",
]


@pytest.mark.parametrize("which", RUNNING)
def test_the_same_in_checkpoints_and_arrays(which, canary, tmp_path):
    body = PICKLES[which](canary[0])[2:-1]
    path = tmp_path / "weights.pth"
    for data in (zip_container(body, []), legacy_container(body, [])):
        path.write_bytes(data)
        refused(read_checkpoint, path)
    stream = tmp_path / "arrays.npz"
    np.savez(stream, a=np.array([{}], object))
    content = stream.read_bytes()
    # The object member, stored, is a pickle behind an .npy header: put the attack into its place.
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        member = archive.read("a.npy")
    header = member[: member.index(b"\n") + 1]
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", header + PICKLES[which](canary[0]))
    refused(read_npz_objects, stream)


def test_errors_name_what_was_refused(canary, tmp_path):
    path = tmp_path / "model.pkl"
    for which, told in {
        "os.system": "os.system",
        "a dotted name": "numpy.ndarray.tofile",
        "another name of torch": "torch.load",
        "a persistent id": "persistent id",
        "4 EiB of bytes": "truncated",
    }.items():
        path.write_bytes(PICKLES[which](canary[0]))
        error = refused(read_pickle, path)
        assert told in error.given and "nothing of it was run" in str(error)
