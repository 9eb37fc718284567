"""Render random people for training a face landmark and parsing network.

    python -m data_pipelines.detector_faces --model ict_head.npz --out DIR --count 8000

Interrupt it as you like: the same command goes on.
"""

from __future__ import annotations

import argparse

from jaxrecon.errors import InputError


def main(argv: list[str] | None = None) -> None:
    """Command line of this package."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.detector_faces",
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="head model .npz with semantic masks")
    add("--out", required=True, help="data folder; shards go to OUT/SPLIT")
    add("--split", default="train", help="train, validation or test: their people differ")
    add("--count", type=int, default=8000, help="examples; each is another person")
    add("--size", type=int, default=224, help="height and width, pixels")
    add("--first", type=int, default=0, help="number of the first example, a multiple of 64")
    add("--seed", type=int, default=0, help="everything random follows from it")
    add("--supersampling", type=int, default=2, help="samples along each side of a pixel")
    add("--modes", type=int, default=100, help="identity modes of the model that vary")
    given = vars(parser.parse_args(argv))
    out = given.pop("out")

    from data_pipelines.detector_faces.examples import FacesConfig, render_shards

    try:
        written = render_shards(out, FacesConfig(**given))
    except InputError as error:
        parser.exit(2, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\ninterrupted: the same command goes on\n")
    print(f"{out}: {written} new shards")


if __name__ == "__main__":
    main()
