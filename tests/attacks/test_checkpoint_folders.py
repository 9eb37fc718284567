"""Folders of training checkpoints that lead elsewhere, hang, or lie."""

import json
import os
import time

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxrecon.errors import InputError
from jaxrecon.training.checkpoints import Checkpoints
from jaxrecon.training.state import TrainState, create_state

# Where one array of a checkpoint cannot be read, orbax closes its event loop while others are still
# being read; those that finish afterwards complain to nobody.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)


def state() -> TrainState:
    params = {"w": jnp.arange(3, dtype=jnp.float32)}
    return create_state(params, optax.sgd(1e-2), jax.random.key(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    checkpoints = Checkpoints(folder)
    checkpoints.save(state(), wait=True)
    checkpoints.close()
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to spoil, and a file beside it that must not be read."""
    import shutil

    (tmp_path / "secret").write_text("not a checkpoint")
    return shutil.copytree(saved, tmp_path / "run")


def restored(folder):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(state())
    finally:
        checkpoints.close()
        time.sleep(0.1)  # let them finish within this test


def metadata(folder):
    (path,) = folder.rglob("_METADATA")
    return path


def link(folder):
    (folder / "0" / "link").symlink_to(folder.parent / "secret")


def link_a_folder(folder):
    (folder / "9").symlink_to(folder / "0", target_is_directory=True)


def link_instead_of_a_file(folder):
    path = metadata(folder)
    path.rename(folder.parent / "moved")
    path.symlink_to(folder.parent / "moved")


def pipe(folder):
    os.mkfifo(folder / "0" / "pipe")


def foreign_names(folder):
    """The description names arrays by paths that leave the folder."""
    path = metadata(folder)
    path.write_text(path.read_text().replace('"w"', '"../../../secret"'))


def no_json(folder):
    metadata(folder).write_text("{")


def another_json(folder):
    metadata(folder).write_text(json.dumps({"tree_metadata": [1, 2, 3]}))


def deep_json(folder):
    metadata(folder).write_text("[" * 100_000 + "]" * 100_000)


def no_description(folder):
    metadata(folder).unlink()


def no_data(folder):
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(b"")


SPOIL = [
    link,
    link_a_folder,
    link_instead_of_a_file,
    pipe,
    foreign_names,
    no_json,
    another_json,
    deep_json,
    no_description,
    no_data,
]


def test_the_folder_itself_is_sound(folder):
    assert restored(folder).params["w"][2] == 2


@pytest.mark.parametrize("spoil", SPOIL)
def test_spoilt_folders(spoil, folder):
    spoil(folder)
    with pytest.raises(InputError) as caught:
        restored(folder)
    assert str(folder) in caught.value.given


def test_a_link_that_appears_after_opening(folder):
    checkpoints = Checkpoints(folder)
    link(folder)
    with pytest.raises(InputError, match="a link inside a checkpoint folder"):
        checkpoints.restore(state())
    checkpoints.close()
