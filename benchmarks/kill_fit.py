"""Kill `jaxrecon fit` at random moments, resume it, and compare with a run that nothing touched.

    python -m benchmarks.kill_fit --moments 20

Each process gets SIGINT, SIGTERM or SIGKILL at a random moment of its life, start-up and the
writing of files included, and the next one resumes. Whenever a run ends by itself its meshes,
states and records (without seconds) must be equal byte for byte; then another begins, until all
moments are spent. Released weights, small sizes; exit code 1 if anything differs. Compiled programs
are kept for the duration, or in JAX_COMPILATION_CACHE_DIR if that is set.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
SAMPLE = pathlib.Path(__file__).parents[1] / "jaxrecon" / "assets" / "samples" / "demo"
NAMES = ("anna", "bert", "carl")
PATIENCE = 900
"""Seconds that a process may take."""


def work(argv: list[str]) -> int:
    """`jaxrecon fit` with small sizes that saves progress every second."""
    import functools

    from jaxrecon.cli.main import main as command
    from jaxrecon.fitting.problem import FitConfig
    from jaxrecon.pipelines import fit_queue
    from jaxrecon.pipelines import implicit_deformation as pipeline

    sizes = FitConfig(rays=32, weight_steps=40, residual_steps=40)
    pipeline.PRESETS["fast"] = pipeline.Preset(sizes, resolution=32)
    fit_queue.fit_folders = functools.partial(fit_queue.fit_folders, save_every=1.0)
    return command(["fit", *argv, "--batch", "2"])


def write_subjects(folder: pathlib.Path) -> None:
    """The demo's photographs as three subjects that stand at different distances."""
    for number, name in enumerate(NAMES):
        shutil.copytree(SAMPLE, folder / name)
        path = folder / name / "cameras.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        for view in document["views"]:
            view["t"][2] += 3.0 * number
            del view["gt"]  # scores take time and prove nothing here
        path.write_text(json.dumps(document), encoding="utf-8")


def results(out: pathlib.Path) -> dict[str, bytes]:
    """Files that must not depend on interruptions; the record without seconds."""
    found = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file() and p.name != "report.html"):
        data = path.read_bytes()
        if path.name == "fit.json":
            record = json.loads(data)
            del record["seconds"]
            data = json.dumps(record).encode()
        found[str(path.relative_to(out))] = data
    return found


@dataclasses.dataclass(frozen=True)
class Runner:
    """Where a series runs."""

    folder: pathlib.Path
    environment: dict[str, str]

    def run(self, out: str, resume: bool, kill: tuple[float, int] | None) -> tuple[int, float]:
        """One process, killed after some seconds if it still runs: (exit status, seconds)."""
        argv = [sys.executable, "-m", "benchmarks.kill_fit", "--work", "subjects", "--out", out]
        clock = time.monotonic()
        with open(self.folder / "log", "ab") as log:
            process = subprocess.Popen(
                [*argv, "--resume"] if resume else argv,
                cwd=self.folder, env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip
            try:
                status = process.wait(PATIENCE if kill is None else kill[0])
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL if kill is None else kill[1])
                status = process.wait(PATIENCE)
        return status, time.monotonic() - clock


def main(argv: list[str] | None = None) -> int:
    """Run a series and print one line for each moment, then the verdict."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--work"]:
        return work(argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kill_fit", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--moments", type=int, default=20, help="by default 20")
    parser.add_argument("--seed", type=int, default=None, help="repeats a series")
    args = parser.parse_args(argv)
    seed = random.randrange(10**6) if args.seed is None else args.seed
    with tempfile.TemporaryDirectory() as temporary:
        return _series(pathlib.Path(temporary), args.moments, seed)


def _series(folder: pathlib.Path, moments: int, seed: int) -> int:
    write_subjects(folder / "subjects")
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    } | os.environ
    root = str(pathlib.Path(__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    runner, chance = Runner(folder, environment), random.Random(seed)
    lives = [runner.run(f"whole{i}", False, None) for i in range(2)]  # the first one compiles
    expected, seconds = results(folder / "whole0"), lives[1][1]
    if any(status for status, _ in lives) or results(folder / "whole1") != expected:
        print((folder / "log").read_text()[-2000:])
        print("two runs that nothing touched already differ, or failed")
        return 1
    print(f"seed {seed}; a run takes {seconds:.0f} s; {len(expected)} files compared", flush=True)
    spent, runs, wrong, resume = 0, 0, 0, False
    while spent < moments or resume:
        kill = None
        if spent < moments:
            kill = (chance.uniform(0.02, 1.0) * seconds, chance.choice(SIGNALS))
        status, lived = runner.run("out", resume, kill)
        if status:
            spent, resume = spent + 1, True
            name = "ended by itself" if kill is None else signal.Signals(kill[1]).name
            print(f"{spent:3d} {name} after {lived:.1f} s: exit status {status}", flush=True)
            expected_status = () if kill is None else (-kill[1], 128 + kill[1])
            if status not in expected_status:
                print((folder / "log").read_text()[-2000:])
                return 1
            continue
        found, runs, resume = results(folder / "out"), runs + 1, False
        differ = sorted(k for k in found | expected if found.get(k) != expected.get(k))
        wrong += bool(differ)
        print(f"    complete: {'differs in ' + ', '.join(differ) if differ else 'bit-equal'}")
        shutil.rmtree(folder / "out")
    print(f"{spent} moments, {runs} runs, {runs - wrong} of them bit-equal")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
