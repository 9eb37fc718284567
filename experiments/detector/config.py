"""What is trained, on what, and for how long."""

from __future__ import annotations

import dataclasses

from data_pipelines.detector_augment import AugmentConfig
from jaxrecon.detect.network import DetectorConfig
from jaxrecon.types import BODY_25_MIRRORED, LANDMARKS_MIRRORED


@dataclasses.dataclass(frozen=True)
class Weights:
    """Of the parts of the loss."""

    maps: float = 0.3
    """cross entropy of the points' maps"""
    points: float = 1.0
    """mean absolute error of the points, cells of 4 pixels"""
    hidden: float = 0.25
    """of points that cannot be seen, relative to those that can"""
    spread: float = 0.05
    """negative log likelihood of the errors under the predicted spread"""
    visible: float = 0.3
    """cross entropy of the visibility"""
    labels: float = 1.0
    """cross entropy of the labels"""
    overlap: float = 1.0
    """one less the mean soft intersection over union of the labels, over the batch"""
    found: float = 1.0
    """cross entropy of the grid that finds subjects, and absolute errors of centre and size"""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    subject: str = "face"
    """`face` or `person`"""
    network: DetectorConfig = DetectorConfig()
    """Which network."""
    augment: AugmentConfig = AugmentConfig()
    """How pictures are taken of the rendered people."""
    weights: Weights = Weights()
    """Of the loss."""
    batch: int = 16
    """pictures a step"""
    steps: int = 8000
    """gradient steps"""
    learning_rate: float = 2e-3
    """after 200 steps of warming up; falls to 0 as a cosine"""
    weight_decay: float = 1e-4
    """of AdamW"""
    seed: int = 0
    """everything random follows from it"""

    def __post_init__(self):
        if self.subject not in ("face", "person"):
            raise ValueError(f"subject is {self.subject!r}; expected face or person")
        if self.augment.size != self.network.size:
            raise ValueError("augment.size and network.size differ")
        if min(self.batch, self.steps) < 1 or self.batch < 2:
            raise ValueError("batch and steps are positive, and a batch has at least 2 pictures")

    @property
    def mirror(self) -> tuple[int, ...]:
        """Which point a mirrored picture shows at the place of each."""
        return LANDMARKS_MIRRORED if self.subject == "face" else BODY_25_MIRRORED


_WIDTHS = {"widths": (16, 24, 48, 96, 128), "up_widths": (16, 32, 48, 64)}

# At equal weights the gradient of `points` in the layers that all heads share was some seventy
# times that of `labels` and `overlap` for people (norms of 9.4 to 0.13 and 0.15, in trained
# networks: keypoints may be far off), three to five times for faces (1.6 to 0.54 and 0.33): masks
# were hardly trained.
PRESETS = {
    "face": TrainConfig(
        subject="face",
        network=DetectorConfig(
            points=68,
            labels=10,
            reference=38.0,
            blocks=(0, 1, 3, 3, 2),
            up_blocks=(0, 1, 1, 1),
            **_WIDTHS,
        ),
        weights=Weights(labels=2.0, overlap=5.0),
    ),
    "person": TrainConfig(
        subject="person",
        network=DetectorConfig(
            points=25,
            labels=2,
            size=192,
            reference=144.0,
            blocks=(0, 1, 4, 5, 3),
            up_blocks=(0, 1, 1, 1),
            **_WIDTHS,
        ),
        augment=AugmentConfig(
            size=192,
            zoom=(0.65, 1.35),
            near=(1.35, 2.7),
            far=(0.25, 0.65),
            turn=8.0,
            share_turned=0.04,
            lengthen=False,
        ),
        weights=Weights(maps=0.6, points=0.5, labels=10.0, overlap=10.0),
        steps=6000,
    ),
    "tiny": TrainConfig(
        subject="face",
        network=DetectorConfig(
            points=68, labels=10, size=64, reference=15.0, widths=(4,) * 5, up_widths=(4,) * 4
        ),
        augment=AugmentConfig(size=64),
        batch=4,
        steps=4,
    ),
}
"""Name on the command line -> run."""
