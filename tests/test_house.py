"""The house: which way its modules import one another, how large a file may be, and that the wheel holds all of it."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = {
    contract["id"]: contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}
FILE_LINES = 320
RECIPE_LINES = 150
FUNCTION_LINES = 60
# One idea each, so they stay whole
ALLOWED_FILE_LINES = {"emor3_trl/rewards.py": 350, "emor3_trl/data/splits.py": 330}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, env={**variables, "COLUMNS": "200"}, capture_output=True, text=True)


@pytest.fixture
def copy_of_the_house(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "emor3_trl", tmp_path / "emor3_trl", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_house_keeps_its_directions(copy_of_the_house: Path):
    checked = lint_imports(copy_of_the_house)
    assert checked.returncode == 0, checked.stdout
    assert f"{len(CONTRACTS)} kept, 0 broken" in checked.stdout


@pytest.mark.parametrize(
    ("contract", "module", "wrong_import"),
    [
        pytest.param("layers", "engines.choices", "evaluation.metrics", id="engine-imports-evaluation"),
        pytest.param("layers", "report.terminal", "run.folder", id="report-imports-run"),
        pytest.param("paper", "thinking", "trl", id="parser-imports-trl"),
        pytest.param("paper", "reflection", "vllm", id="reflection-imports-vllm"),
        pytest.param("paper", "rewards", "engines.vllm", id="reward-imports-vllm-through-an-engine"),
        pytest.param("config", "config", "run.checks", id="configuration-imports-run"),
        pytest.param("config", "trainer", "run.plan", id="trainer-imports-run"),
        pytest.param("data", "data.sampling", "evaluation.metrics", id="data-imports-evaluation"),
        pytest.param("demo", "report.terminal", "demo.texts", id="report-imports-demo"),
        pytest.param("groups", "groups.batching", "rewards", id="groups-import-rewards"),
        pytest.param("cycles", "data.sampling", "data.preparation", id="two-files-import-each-other"),
        pytest.param("cycles", "engines.choices", "evaluation.metrics", id="two-folders-import-each-other"),
    ],
)
def test_a_wrong_import_breaks_the_contract_that_forbids_it(
    copy_of_the_house: Path, contract: str, module: str, wrong_import: str
):
    imported = wrong_import if wrong_import in ("trl", "vllm") else f"emor3_trl.{wrong_import}"
    file = copy_of_the_house / "emor3_trl" / f"{module.replace('.', '/')}.py"
    file.write_text(f"{file.read_text()}\nimport {imported}\n")
    checked = lint_imports(copy_of_the_house)
    assert checked.returncode != 0
    assert f"{CONTRACTS[contract]} BROKEN" in checked.stdout
    if contract == "cycles":  # told of by its two members, as their common folder calls them
        pair = zip(module.split("."), wrong_import.split("."), strict=True)
        importer, target = next((left, right) for left, right in pair if left != right)
        assert f"- .{importer} -> .{target}" in checked.stdout
    else:
        assert f"emor3_trl.{module} -> {imported}" in checked.stdout


def test_a_new_file_at_the_top_needs_a_place_in_the_layers(copy_of_the_house: Path):
    (copy_of_the_house / "emor3_trl" / "odds_and_ends.py").write_text("")
    checked = lint_imports(copy_of_the_house)
    assert checked.returncode != 0
    assert "odds_and_ends" in checked.stdout
    assert f"{CONTRACTS['layers']} BROKEN" in checked.stdout


def list_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def count_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def list_long_functions(source: str) -> list[str]:
    """Return name, line and size of each function that is longer than the house allows, its docstring included."""
    return [
        f"{node.name} (line {node.lineno}) has {size} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (size := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]


def test_a_file_fits_into_one_sitting():
    allowed = {"recipes": RECIPE_LINES, "emor3_trl": FILE_LINES, "requirements": FILE_LINES}
    too_long = []
    for folder, lines in allowed.items():
        for file in list_files(folder):
            name = file.relative_to(ROOT).as_posix()
            if (size := count_lines(file)) > (limit := ALLOWED_FILE_LINES.get(name, lines)):
                too_long.append(f"{name}: {size} lines, {limit} are allowed")
    assert not too_long, "\n".join(
        [*too_long, "Does it hold two ideas? Give the second a file of its own, by its name."]
    )


def test_a_function_fits_on_a_screen():
    too_long = [
        f"{file.relative_to(ROOT).as_posix()}: {function}, {FUNCTION_LINES} are allowed"
        for file in list_files("emor3_trl", "recipes", "requirements")
        for function in list_long_functions(file.read_text(encoding="utf-8"))
    ]
    assert not too_long, "\n".join([*too_long, "Name a step of it, and make that step a function."])


@pytest.mark.parametrize(("lines", "long"), [(FUNCTION_LINES, False), (FUNCTION_LINES + 1, True)])
def test_the_length_of_a_function_counts_its_head_and_its_docstring(lines: int, long: bool):
    source = "\n".join(["class Thing:", "    def act(self):", '        """Act."""', *["        pass"] * (lines - 2)])
    assert bool(list_long_functions(source)) is long


def test_the_wheel_holds_the_whole_package_and_nothing_else(copy_of_the_house: Path, tmp_path: Path):
    for name in ("setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy_of_the_house)
    (copy_of_the_house / "tests").mkdir()
    (copy_of_the_house / "tests" / "__init__.py").touch()
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "out", "."]
    built = subprocess.run(command, cwd=copy_of_the_house, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = (copy_of_the_house / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "installed")
    package = ROOT / "emor3_trl"
    expected = {file for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert files == {file.relative_to(ROOT).as_posix() for file in expected}
    code = "import emor3_trl.data.sources.emoset as source; print(source.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    # -P: Python does not search the folder that it starts in, which is the clone
    imported = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True)
    assert imported.returncode == 0, imported.stderr
    assert str(tmp_path / "installed") in imported.stdout
