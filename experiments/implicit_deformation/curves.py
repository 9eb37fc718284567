"""Draw the curves of a training run.

    python -m experiments.implicit_deformation.curves --run runs/small --out curves.svg

One panel for the losses of the stages, and where the run measured held-out people one each for
surface error and normals. Reads RUN/metrics.jsonl; needs matplotlib.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys

from jaxrecon.errors import InputError

LOSSES = ("loss", "surface", "normal", "eikonal", "correspondence", "rgb")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Draw the curves of a training run."""

    run: pathlib.Path
    """Folder of the run."""
    out: pathlib.Path
    """Picture: .svg, .png or .pdf."""


def read_metrics(path: pathlib.Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """{stage: {metric: [(step, value), ...]}} of a metrics.jsonl; of lines that repeat a step, the
    last counts.

    Raises:
        InputError: no such file, or a line that is no record of a training run.
    """
    remedy = "give the folder of a training run"
    if not path.is_file():
        raise InputError(f"{path}: no such file", "metrics.jsonl of a training run", remedy)
    stages: dict[str, dict[str, dict[int, float]]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
            stage, step = str(record.pop("stage")), int(record.pop("step"))
            values = {key: float(value) for key, value in record.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path}, line {number}: {line[:80]!r}", "a record", remedy) from error
        for key, value in values.items():
            stages.setdefault(stage, {}).setdefault(key, {})[step] = value
    return {
        stage: {key: sorted(points.items()) for key, points in metrics.items()}
        for stage, metrics in stages.items()
    }


def draw(stages: dict[str, dict[str, list[tuple[int, float]]]], out: pathlib.Path) -> None:
    """The picture; its format follows from the suffix of `out`."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "jaxrecon"  # the same run draws the same file
    from matplotlib import pyplot

    measured = [s for s in stages if any(key.startswith("held_out") for key in stages[s])]
    rows = len(stages) + 2 * bool(measured)
    figure, axes = pyplot.subplots(1, rows, figsize=(4.0 * rows, 3.2), squeeze=False)
    panels = iter(axes[0])
    for stage, metrics in stages.items():
        panel = next(panels)
        for key in LOSSES:
            steps, values = zip(*metrics.get(key, [(0, 0.0)]), strict=True)
            if any(v > 0 for v in values):
                panel.semilogy(steps, values, label=key, linewidth=1)
        panel.set(title=f"{stage}: terms of the loss", xlabel="step")
        panel.legend(fontsize=7)
    for suffix, unit in (("mm", "mm"), ("cosine", "cosine")) if measured else ():
        panel = next(panels)
        for stage in measured:
            for key, points in stages[stage].items():
                if key.startswith("held_out") and key.endswith(suffix):
                    panel.plot(*zip(*points, strict=True), label=key, linewidth=1)
        panel.set(title=f"unseen people ({unit})", xlabel="step")
        if suffix == "mm":
            panel.set_yscale("log")
        panel.grid(alpha=0.3, which="both")
        panel.legend(fontsize=7)
    figure.tight_layout()
    temporary = out.with_name(f".{out.name}.tmp")
    out.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if out.suffix == ".svg" else None
    figure.savefig(temporary, format=out.suffix.lstrip("."), dpi=110, metadata=metadata)
    pyplot.close(figure)
    temporary.replace(out)


def main(arguments: Arguments) -> int:
    """Draw; exit code."""
    try:
        if arguments.out.suffix not in (".svg", ".png", ".pdf"):
            raise InputError(f"--out {arguments.out}", "a name that ends in .svg, .png or .pdf", "")
        draw(read_metrics(arguments.run / "metrics.jsonl"), arguments.out)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(arguments.out)
    return 0


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Arguments)))
