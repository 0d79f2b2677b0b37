# Sourced by the other scripts: a virtual environment with everything of requirements.txt.
#
# An active environment (venv or conda) is used as it is; otherwise .venv is made. On a machine without a GPU, where
# torch is not there yet, TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu saves gigabytes of CUDA libraries.

if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
    # shellcheck disable=SC1091
    . .venv/bin/activate
fi
if [ -n "${TORCH_INDEX_URL:-}" ] && ! python -c 'import torch' 2>/dev/null; then
    python -m pip install --quiet --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' requirements.txt)"
fi
python -m pip install --quiet --requirement requirements.txt
