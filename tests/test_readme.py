"""What the README says is run."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_example_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102
    shape, error = capsys.readouterr().out.rsplit(" ", 1)
    assert shape == "(100,)" and float(error) < 2.0


def test_links_lead_somewhere():
    for name in ("README.md", *[str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md")]):
        path = ROOT / name
        for target in re.findall(r"\]\(([^)#]+?)\)", path.read_text(encoding="utf-8")):
            if not target.startswith(("http://", "https://")):
                assert (path.parent / target).exists(), f"{name}: {target}"


@pytest.mark.parametrize("preset", ["small"])
def test_released_weights_load_and_fit_their_header(preset):
    from jaxrecon.models.implicit import count_parameters
    from jaxrecon.pipelines.priors import DEFAULT_WEIGHTS, load_prior

    prior = load_prior()
    header = json.loads(DEFAULT_WEIGHTS.with_suffix(".json").read_text())
    assert header["steps"]["rendering"] > 0
    card = DEFAULT_WEIGHTS.with_suffix(".md").read_text(encoding="utf-8")
    assert f"{count_parameters(prior.params):,}" in card


def test_assets_are_small():
    total = sum(p.stat().st_size for p in (ROOT / "jaxrecon" / "assets").rglob("*") if p.is_file())
    assert total < 30e6
