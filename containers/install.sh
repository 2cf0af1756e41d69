#!/usr/bin/env bash
# What both images hold: the tested versions and this project, in .venv. Run in the project's folder, as root.
#   bash containers/install.sh gpu|cpu
set -euo pipefail
variant=$1

# torch and vLLM compile kernels when they run, with the machine's compiler
apt-get update
apt-get install -y --no-install-recommends g++ git libnuma1
rm -rf /var/lib/apt/lists/*

case $variant in
    gpu)
        python -m venv .venv
        .venv/bin/pip install --no-cache-dir "$(grep '^uv==' requirements/cpu.txt)"
        .venv/bin/uv pip install --no-cache --python .venv/bin/python --editable '.[vllm,wandb,deepspeed]' \
            --constraints requirements/gpu.txt
        ;;
    cpu)
        python requirements/make_venv.py
        rm -rf ~/.cache/uv
        ;;
    *)
        echo "VARIANT is '$variant'. Expected gpu or cpu." >&2
        exit 2
        ;;
esac
