"""A strict session for every test: eight fake devices, no silent broadcasting, checked annotations.

The order matters: the environment is set before jax is imported, and the import hook is installed
before anything else of jaxrecon is. Warnings are errors; exceptions are listed in setup.cfg.
"""

import gc
import os
import pathlib

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def _set_environment() -> None:
    """Options that jax reads once, when it is imported; what the caller has set stays."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()
    # Compilation is most of the time of these tests: keep every program for the next run.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".cache" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")


_set_environment()

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

import jaxrecon.types  # noqa: E402, F401  before the hook: unflattening fills its dataclasses with abstract values

jaxtyping.install_import_hook("jaxrecon", "beartype.beartype")

# The first example of a property compiles: no deadline. The same examples in every run.
hypothesis.settings.register_profile("jaxrecon", deadline=None, derandomize=True)
hypothesis.settings.load_profile("jaxrecon")


MAPPINGS = 25_000
"""Mappings of memory, of the 65,530 that Linux allows a process, above which compiled programs are
forgotten. Each has several, and a process that has no more ends without a word.
"""


@pytest.fixture(scope="module", autouse=True)
def few_mappings():
    """Forget compiled programs after a module, where there are many."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """Read-only data and parity fixtures: `JAXRECON_SHARED`, or ../shared of the repository."""
    path = pathlib.Path(os.environ.get("JAXRECON_SHARED") or REPOSITORY.parent / "shared")
    if not (path / "data").is_dir():
        pytest.skip(f"no shared data at {path} (set JAXRECON_SHARED)")
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    """NumPy randomness, the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def key() -> jax.Array:
    """JAX randomness, the same in every run."""
    return jax.random.key(0)


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory) -> pathlib.Path:
    """The synthetic head model of `toy_prior`."""
    from tests.pipelines.toy_prior import write_toy_model

    return write_toy_model(tmp_path_factory.mktemp("toy_model"))


@pytest.fixture(scope="session")
def toy_weights(toy_model, tmp_path_factory) -> pathlib.Path:
    """Weights of an untrained, tiny prior, without suffix."""
    from tests.pipelines.toy_prior import write_toy_weights

    return write_toy_weights(toy_model, tmp_path_factory.mktemp("toy_weights"))
