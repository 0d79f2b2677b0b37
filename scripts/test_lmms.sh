#!/bin/sh
# Install lmms-eval beside what this repository needs, in an environment of its own, and test the plug-in with it.
#
#     sh scripts/test_lmms.sh [arguments of pytest]
set -eu
cd "$(dirname "$0")/.."

LMMS_VENV=${LMMS_VENV:-.venv-lmms}   # an active environment is left alone: lmms-eval's pins are not all ours
export OMP_NUM_THREADS=1

[ -f "$LMMS_VENV/bin/activate" ] || "${PYTHON:-python3}" -m venv "$LMMS_VENV"
# shellcheck disable=SC1091
. "$LMMS_VENV/bin/activate"
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
install_requirements tests/requirements.txt
install_requirements eval/lmms_eval_plugin/requirements.txt
# The torchvision of PyPI cannot be loaded beside a torch without CUDA, and transformers would try to.
if [ "${INSTALL:-yes}" != no ] && ! python -c 'import torchvision' 2>/dev/null; then
    python -m pip uninstall --quiet --quiet --yes torchvision
fi

python -m pytest tests/run_lmms_eval.py "$@"
