"""Presets of the implicit-deformation experiments."""

from __future__ import annotations

import dataclasses

from data_pipelines.head_points import SampleConfig
from jaxrecon.systems.implicit_deformation import networks
from jaxrecon.systems.implicit_deformation.losses import GeometryWeights

STAGES = ("reference", "deformation", "rendering")
SEEDS = 900_000
"""Seeds of training are below this; people to measure on have seeds above."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of training."""

    steps: int
    """Steps in all."""
    rate: float
    """Adam's learning rate (peak)."""
    decay: bool = True
    """Cosine decay to 1 % (the paper states constant rates)."""
    sample: SampleConfig = SampleConfig()
    """Batch composition."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on; stored as JSON beside its results."""

    network: networks.Config
    """Sizes of the networks."""
    reference: Stage
    """Stage 1: the reference shape alone, on the mean head (paper: one scan)."""
    deformation: Stage
    """Stage 2: deformation with codes, reference fine-tuned."""
    rendering: Stage
    """Stage 3: rendering network on coloured surface points."""
    weights: GeometryWeights = GeometryWeights()
    """Weights of Eq. 4."""
    codes: str = "coefficients"
    """`coefficients`: the model's own coefficients are the codes. `table`: codes are learned (the
    paper).
    """
    identities: int = 1000
    """Table only: number of training identities."""
    expressions: int = 8
    """Table only: expressions of each identity."""
    seed: int = 0
    """Seed of initialisation and data."""

    def __post_init__(self):
        if self.codes not in ("coefficients", "table"):
            raise ValueError(f"codes is {self.codes!r}; expected 'coefficients' or 'table'")
        if not 0 <= self.seed < SEEDS:
            raise ValueError(f"seed is {self.seed}; expected 0 to {SEEDS - 1}")


_OURS = GeometryWeights(
    surface=5.0,
    normal=0.2,
    deformation=0.0,
    surface_eikonal=0.05,
    correspondence=10.0,
    volume=10.0,
)
_FACE = SampleConfig(face_density=6.0, feature_density=8.0)

PRESETS = {
    # Sec. 4.1: Adam 1e-3 on one scan, then 1e-4 with 32 instances a batch; 860 k points a scan are
    # drawn in turns.
    "paper": TrainConfig(
        network=networks.PRESETS["paper"],
        reference=Stage(
            20_000, 1e-3, decay=False, sample=SampleConfig(heads=1, surface=8192, volume=4096)
        ),
        deformation=Stage(
            200_000, 1e-4, decay=False, sample=SampleConfig(heads=32, surface=2048, volume=1024)
        ),
        rendering=Stage(50_000, 1e-4, decay=False, sample=SampleConfig(heads=32, surface=2048)),
        codes="table",
        expressions=8,
        identities=95,
    ),
    # What works better on a CPU: known coefficients as codes, known correspondences, distances
    # around the head, many people with few points each.
    "small": TrainConfig(
        network=networks.PRESETS["small"],
        reference=Stage(
            1_000, 2e-3, sample=dataclasses.replace(_FACE, heads=1, surface=2048, volume=1024)
        ),
        deformation=Stage(
            12_000, 2e-3, sample=dataclasses.replace(_FACE, heads=64, surface=56, volume=24)
        ),
        rendering=Stage(2_000, 2e-3, sample=SampleConfig(heads=16, surface=384)),
        weights=_OURS,
    ),
    "tiny": TrainConfig(
        network=networks.PRESETS["tiny"],
        reference=Stage(200, 3e-3, sample=SampleConfig(heads=1, surface=512, volume=256)),
        deformation=Stage(300, 3e-3, sample=SampleConfig(heads=4, surface=256, volume=128)),
        rendering=Stage(200, 3e-3, sample=SampleConfig(heads=4, surface=256)),
        weights=_OURS,
    ),
}
