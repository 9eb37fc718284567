"""Hostile checkpoints, archives and .mat files: one clear error each, nothing run."""

import numpy as np
import pytest

from jaxrecon.interop import mat_files, object_arrays, state_dicts
from jaxrecon.interop.checkpoints import read
from jaxrecon.interop.mat_files import read_mat
from jaxrecon.interop.object_arrays import read_npz_objects
from jaxrecon.interop.state_dicts import read_npz
from jaxrecon.interop.torch_files import read_checkpoint
from tests.attacks.arrays import ARRAYS, MATS, sound_mat
from tests.attacks.containers import CHECKPOINTS, FOUR, OLD, OLD_FOUR, SOUND
from tests.attacks.test_pickles import canary, refused  # noqa: F401
from tests.interop.foreign_files import legacy_container, zip_container

SMALL = 8 << 20


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    """Bombs of some MiB stand for those of some GiB."""
    for module in (mat_files, object_arrays, state_dicts):
        monkeypatch.setattr(module, "MAX_BYTES", SMALL)


def test_what_the_attacks_are_made_of_is_sound(tmp_path):
    path = tmp_path / "a"
    for data in (zip_container(SOUND, FOUR), legacy_container(OLD, OLD_FOUR)):
        path.write_bytes(data)
        np.testing.assert_array_equal(read_checkpoint(path)["w"], np.zeros(4))
    path.write_bytes(sound_mat())
    assert set(read_mat(path)) == set("ab")


@pytest.mark.parametrize("which", CHECKPOINTS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_checkpoints(which, canary, tmp_path):  # noqa: F811
    path = tmp_path / "weights.pth"
    path.write_bytes(CHECKPOINTS[which](canary[0]))
    refused(lambda p: read_checkpoint(p, SMALL), path)
    refused(lambda p: read(p, SMALL), path)  # import-checkpoint's, which looks at the content first
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pth"]


@pytest.mark.parametrize("which", ARRAYS)
@pytest.mark.parametrize("reader", [read_npz, read_npz_objects])
def test_hostile_arrays(which, reader, tmp_path):
    path = tmp_path / "arrays.npz"
    path.write_bytes(ARRAYS[which])
    refused(reader, path)


@pytest.mark.parametrize("which", MATS)
def test_hostile_mat_files(which, tmp_path):
    path = tmp_path / "model.mat"
    path.write_bytes(MATS[which])
    refused(read_mat, path)


def test_links_and_pipes_are_no_files(tmp_path):
    """A pipe would hang, a link into nothing has no content."""
    import os

    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "link.pth").symlink_to(tmp_path / "absent")
    for name in ("pipe.pth", "link.pth"):
        refused_without_size(tmp_path / name)


def refused_without_size(path):
    from jaxrecon.errors import InputError

    for reader in (read_checkpoint, read, read_npz_objects, read_mat):
        with pytest.raises(InputError, match=path.name):
            reader(path)
