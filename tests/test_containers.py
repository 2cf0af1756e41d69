"""The containers build from the pins, and the cluster's scripts are sound: linted, and what they name is there."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from recipe_commands import ROOT

CONTAINERS = ROOT / "containers"
SCRIPTS = [CONTAINERS / "install.sh", *sorted((ROOT / "recipes" / "slurm").iterdir())]
DOCKERFILE = (CONTAINERS / "Dockerfile").read_text()
DEFINITION = (CONTAINERS / "apptainer.def").read_text()


def lint(program: str, *arguments: str | Path) -> tuple[int, str]:
    """Return how a linter of the development environment ends, and all that it says; skip where it is not installed."""
    found = shutil.which(program) or shutil.which(program, path=Path(sys.executable).parent)
    if found is None:
        pytest.skip(f"{program} is not installed: pip install -e .[dev]")
    ended = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout + ended.stderr


def list_copied_paths() -> tuple[list[str], list[str]]:
    """Return what the Dockerfile and the Apptainer file copy from the project."""
    docker = [path for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for path in line.split()]
    files = DEFINITION.split("%files\n")[1].split("\n\n")[0]
    return docker, [line.split()[0] for line in files.splitlines()]


def read_pins(file: Path) -> dict[str, str]:
    """Return the pinned version of each package."""
    pins = [Requirement(line) for line in file.read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound(script: Path) -> None:
    parsed = subprocess.run(["bash", "-n", script], capture_output=True, text=True, timeout=60)
    assert (parsed.returncode, parsed.stderr) == (0, "")
    assert lint("shellcheck", script) == (0, "")


def test_the_dockerfile_is_sound() -> None:
    assert lint("hadolint", CONTAINERS / "Dockerfile") == (0, "")


def test_both_containers_copy_the_same_and_all_of_it_is_there_and_sent_to_the_builder() -> None:
    docker, apptainer = list_copied_paths()
    assert sorted(docker) == sorted(apptainer)
    assert [path for path in docker if not (ROOT / path).exists()] == []
    sent = re.findall(r"^!(\S+)$", (CONTAINERS / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert {path.split("/")[0] for path in docker} == set(sent)
    from_docker, from_apptainer = (re.search(r"(?mi)^from:? (\S+)$", text) for text in (DOCKERFILE, DEFINITION))
    assert from_docker is not None
    assert from_apptainer is not None
    assert from_docker.group(1) == from_apptainer.group(1)


def test_the_gpu_pins_are_those_of_the_cpu_and_fit_what_the_image_installs() -> None:
    install = (CONTAINERS / "install.sh").read_text()
    extras = re.search(r"'\.\[([\w,]+)\]'", install)
    assert extras is not None
    pins = {name: read_pins(ROOT / "requirements" / f"{name}.txt") for name in ("cpu", "gpu")}
    differing = [name for name, pin in pins["gpu"].items() if name in pins["cpu"] and pins["cpu"][name] != pin]
    assert differing == []
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    asked = setup["options"]["install_requires"]
    for extra in extras.group(1).split(","):
        asked += "\n" + setup["options.extras_require"][extra]
    wanted = [Requirement(line) for line in asked.splitlines() if line and not line.startswith("#")]
    for requirement in wanted:
        assert requirement.specifier.contains(pins["gpu"][canonicalize_name(requirement.name)]), requirement
