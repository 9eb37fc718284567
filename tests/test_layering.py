"""Arrows point down only, and importing stays light."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# A package may import itself and what is lower; equal levels may not import each other.
LEVELS = {
    "jaxrecon.types": 0,
    "jaxrecon.errors": 0,
    "jaxrecon.archives": 0,
    "jaxrecon.images": 1,
    "jaxrecon.cite": 1,
    "jaxrecon.geometry": 1,
    "jaxrecon.assets": 1,
    "jaxrecon.models": 2,
    "jaxrecon.interop": 3,  # maps foreign weights onto models; models never read files of weights
    "jaxrecon.systems": 4,
    "jaxrecon.fitting": 5,
    "jaxrecon.training": 5,
    "jaxrecon.evaluation": 5,
    "jaxrecon.detect": 5,
    "jaxrecon.pipelines": 6,
    "jaxrecon.cli": 7,
    "jaxrecon.viewer": 7,
    "jaxrecon.__main__": 8,
}
BLIND_TO_SYSTEMS = ("jaxrecon.fitting", "jaxrecon.training", "jaxrecon.evaluation")
OUTSIDE = ("data_pipelines", "experiments", "benchmarks", "tests")
DATA_MAY = (
    "jaxrecon.types",
    "jaxrecon.errors",
    "jaxrecon.geometry",
    "jaxrecon.models.parametric",
    "jaxrecon.fitting",
    "data_pipelines",
)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _imports(path: pathlib.Path, module: str) -> set[str]:
    """Every module that a file imports, at any depth of its code.

    `from a import b` counts as a.b, which may name a function: prefixes decide, so no harm.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def _modules(package: str) -> dict[str, set[str]]:
    """Module name -> what it imports, of every file below a package."""
    modules = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        modules[name] = _imports(path, name)
    return modules


def _level(module: str) -> tuple[str, int] | None:
    """The longest package of `LEVELS` that holds a module."""
    packages = [p for p in LEVELS if _within(module, p)]
    return (packages[0], LEVELS[packages[0]]) if packages else None


def _violations(modules: dict[str, set[str]]) -> list[str]:
    """Arrows of jaxrecon that point up or sideways."""
    wrong = []
    for module, imports in modules.items():
        source = _level(module)
        if source is None:
            if module != "jaxrecon":
                wrong.append(f"{module} has no level")
            continue
        for target in imports:
            if any(_within(target, package) for package in OUTSIDE):
                wrong.append(f"{module} -> {target}")
            version = target == "jaxrecon" or target.startswith("jaxrecon.__")
            if version or not _within(target, "jaxrecon"):
                continue
            level = _level(target)
            if level is None:
                wrong.append(f"{module} -> {target}: no level")
            elif level[0] != source[0] and level[1] >= source[1]:
                wrong.append(f"{module} -> {target}")
            if _within(target, "jaxrecon.systems") and source[0] in BLIND_TO_SYSTEMS:
                wrong.append(f"{module} -> {target}")
            if source[0] == "jaxrecon.systems" == (level or ("",))[0]:
                if _system(target) != _system(module):
                    wrong.append(f"{module} -> {target}")
    return wrong


def _system(module: str) -> str:
    return ".".join(module.split(".")[:3])


def test_arrows_point_down():
    modules = _modules("jaxrecon")
    assert "jaxrecon.pipelines.views" in modules
    assert _violations(modules) == []


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("jaxrecon.geometry.a", "jaxrecon.models.layers"),
        ("jaxrecon.systems.pamir", "jaxrecon.systems.pifu.init"),
        ("jaxrecon.fitting.optimise", "jaxrecon.systems.pifu"),
        ("jaxrecon.training.loop", "jaxrecon.evaluation.metrics"),
        ("jaxrecon.models.layers", "data_pipelines.samples"),
        ("jaxrecon.models.layers", "jaxrecon.interop.weights"),
        ("jaxrecon.pipelines.views", "jaxrecon.cli.main"),
        ("jaxrecon.types", "jaxrecon.errors.InputError"),
        ("jaxrecon.novelty", "jaxrecon.types"),
    ],
)
def test_the_test_sees_wrong_arrows(module, target):
    assert _violations({module: {target}})


def test_the_test_accepts_right_arrows(tmp_path):
    (tmp_path / "a.py").write_text("from . import b\nfrom ..types import Mesh\nimport numpy\n")
    imports = _imports(tmp_path / "a.py", "jaxrecon.geometry.a")
    assert imports == {"jaxrecon.geometry.b", "jaxrecon.types.Mesh", "numpy"}
    assert _violations({"jaxrecon.geometry.a": imports}) == []


def test_data_pipelines_know_the_ground_floor_only():
    wrong = [
        f"{module} -> {target}"
        for module, imports in _modules("data_pipelines").items()
        for target in imports
        if _within(target, "jaxrecon") or any(_within(target, p) for p in OUTSIDE)
        if not any(_within(target, allowed) for allowed in DATA_MAY)
    ]
    assert wrong == []


def _run(*arguments: str) -> tuple[str, float]:
    """(what a process of its own prints, the processor time it takes, whatever else runs)."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    after = os.times()
    used = after.children_user + after.children_system
    return done.stdout, used - before.children_user - before.children_system


_HEAVY = "{'jax', 'flax', 'optax', 'orbax', 'scipy', 'trimesh', 'igl', 'tensorflow_datasets'}"


def test_importing_the_package_loads_nothing():
    stdout, _ = _run("-c", "import sys, jaxrecon; print(len({'jax', 'numpy'} & set(sys.modules)))")
    assert stdout.strip() == "0"


def test_help_is_fast_and_loads_no_jax():
    code = (
        "import sys\nfrom jaxrecon.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"print('loaded', sorted({_HEAVY} & set(sys.modules)))"
    )
    runs = [_run("-c", code) for _ in range(3)]
    assert "fit" in runs[0][0] and runs[0][0].strip().endswith("loaded []")
    assert min(seconds for _, seconds in runs) < 1.0
