"""TensorFlow Datasets builder of rendered heads, in array_record files and without TensorFlow.

The builder packs what `examples.render_missing` has rendered; what is missing it renders itself.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.morphable_heads import examples, hair
from data_pipelines.morphable_heads.examples import HeadsConfig, Studio
from data_pipelines.morphable_heads.head import LABELS
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.models.parametric.procedural_albedo import PARAMETERS

RENDERED = ".rendered"
"""Folder of rendered examples that wait to be packed, below the data folder."""


class HeadsBuilderConfig(tfds.core.BuilderConfig):
    """A `HeadsConfig` by a name that tells data sets apart, with the model's sizes."""

    def __init__(self, heads: HeadsConfig):
        heads.check()
        super().__init__(
            name=f"{heads.size}px_{heads.views}views_{heads.identities}+{heads.held_out}x"
            f"{heads.expressions}_{heads.recipe()}",
            description=f"Rendered heads of a linear face model, {pathlib.Path(heads.model).name}.",
        )
        model = load_face_model(heads.model, None)
        self.heads = heads
        self.identity = min(len(model.identity), heads.modes)
        self.expression = len(model.expression)


class MorphableHeads(tfds.core.GeneratorBasedBuilder):
    """Rendered heads; `config` is a `HeadsBuilderConfig`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = []
    # Only finds checksums of downloads, which there are none of; tfds 4.9.10 needs
    # importlib_resources for it without saying so.
    code_path = None

    def __init__(self, *, config: HeadsBuilderConfig, data_dir: str | os.PathLike, **kwargs):
        kwargs.setdefault("file_format", "array_record")
        super().__init__(config=config, data_dir=os.fspath(data_dir), **kwargs)

    @property
    def sizes(self) -> HeadsBuilderConfig:
        """The configuration with the model's sizes."""
        assert isinstance(self.builder_config, HeadsBuilderConfig)
        return self.builder_config

    @property
    def heads(self) -> HeadsConfig:
        """What is built."""
        return self.sizes.heads

    def _info(self) -> tfds.core.DatasetInfo:
        c, f = self.sizes, tfds.features
        v, s = c.heads.views, c.heads.size

        def tensor(*shape: int):
            return f.Tensor(shape=shape, dtype=np.float32)

        def pictures(channels: int):
            picture = f.Image(shape=(s, s, channels), dtype=np.uint8, encoding_format="png")
            return f.Sequence(picture, length=v)

        features = f.FeaturesDict(
            {
                "identity_seed": f.Scalar(dtype=np.int64),
                "expression_index": f.Scalar(dtype=np.int64),
                "identity": tensor(c.identity),
                "expression": tensor(c.expression),
                "albedo": tensor(PARAMETERS),
                "hair": tensor(hair.PARAMETERS),
                "lighting": tensor(9, 3),
                "landmarks3d": tensor(68, 3),
                "landmarks2d": tensor(v, 68, 2),
                "visible": f.Tensor(shape=(v, 68), dtype=np.bool_),
                "K": tensor(v, 3, 3),
                "R": tensor(v, 3, 3),
                "t": tensor(v, 3),
                "image": pictures(3),
                "mask": pictures(1),
                "parsing": pictures(1),
            }
        )
        options = dataclasses.replace(c.heads, model=pathlib.Path(c.heads.model).name)
        description = f"{c.description} Parsing labels, from 0: {', '.join(LABELS)}. {options}"
        return tfds.core.DatasetInfo(
            builder=self, description=description, features=features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager
        splits = [s for s in examples.SPLITS if self.heads.count(s)]
        return {split: self._generate_examples(split) for split in splits}

    def _generate_examples(self, split: str):
        folder = pathlib.Path(self._data_dir_root) / RENDERED
        studio: Studio | None = None
        for index in range(self.heads.count(split)):
            path = examples.example_path(folder, self.heads, split, index)
            if path.is_file():
                example = examples.read_example(path)
            else:
                studio = studio or Studio(self.heads)
                example = studio.example(split, index)
            pictures = {k: v for k, v in example.items() if isinstance(v, list)}
            yield index, example | {k: [io.BytesIO(b) for b in v] for k, v in pictures.items()}


def build(
    config: HeadsConfig, out: str | os.PathLike, workers: int = 0, keep: bool = False
) -> pathlib.Path:
    """Render and pack a data set; an interrupted build goes on where it stopped.

    Args:
        config: what to build.
        out: data folder; the data set goes below `morphable_heads/`.
        workers: processes that render; 0 renders in this one.
        keep: keep the single rendered files, so that a larger data set of the same recipe need
            not render them again.

    Returns:
        the folder of the data set, for `loader.load` and `tfds.builder_from_directory`. If it is
        there already, nothing is done.

    Raises:
        InputError: unusable model or configuration.
    """
    out = pathlib.Path(out).resolve()
    builder = MorphableHeads(config=HeadsBuilderConfig(config), data_dir=out)
    folder = pathlib.Path(builder.data_path)
    if folder.is_dir():
        return folder
    examples.render_missing(out / RENDERED, config, workers)
    # What a killed run left while it packed.
    for stale in folder.parent.glob("incomplete.*"):
        shutil.rmtree(stale)
    # Nothing is downloaded, but tfds makes a folder for it.
    downloads = out / RENDERED / "downloads"
    builder.download_and_prepare(download_dir=downloads)
    shutil.rmtree(downloads, ignore_errors=True)
    if not keep:
        shutil.rmtree(out / RENDERED / config.recipe(), ignore_errors=True)
        if not any((out / RENDERED).iterdir()):
            (out / RENDERED).rmdir()
    return folder
