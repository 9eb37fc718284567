"""The report in a real browser, headless: it renders, without errors, and the 3D view shows the
mesh.
"""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from jaxrecon.pipelines.report import write_report
from tests.pipelines.report_data import data

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on the PATH")


def browse(page, folder, *options):
    """Standard output and the log (console messages included) of one headless visit."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader", "--hide-scrollbars", "--window-size=900,800",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=6000",
        "--force-prefers-reduced-motion",
        "--enable-logging=stderr", "--log-level=0", *options, page.as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


def test_page_renders_without_errors_and_shows_the_mesh(tmp_path):
    from PIL import Image

    page = write_report(tmp_path / "report.html", data(title="ball"))
    dom, log = browse(page, tmp_path, "--dump-dom")
    assert 'data-viewer="ready"' in dom, re.findall(r"No interactive view[^<]*", dom)
    console = [line for line in log.splitlines() if "CONSOLE" in line]
    # Reading WebGL back for the picture may be called slow: a remark on speed, not on the page.
    assert not [line for line in console if "GPU stall" not in line]

    browse(page, tmp_path, f"--screenshot={tmp_path / 'shot.png'}")
    shot = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)
    orange = (shot[..., 0] - shot[..., 2] > 80) & (shot[..., 0] > 120)
    # The ball in the canvas: a disc of several hundred pixels' width, brighter where it faces the
    # light.
    rows, columns = np.nonzero(orange)
    assert orange.sum() > 20_000 and np.ptp(columns) > 150
    assert abs(columns.mean() - 450) < 60
    assert np.ptp(shot[orange][:, 0]) > 30
