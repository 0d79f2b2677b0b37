#!/bin/sh
# Test the plug-in with lmms-eval itself, in an environment of its own.
#
#     sh scripts/test_lmms.sh [arguments of pytest]
#
# The own environment is laid over the active one (or .venv), which lends it torch and all else that both agree on.
set -eu
cd "$(dirname "$0")/.."

LMMS_VENV=${LMMS_VENV:-.venv-lmms}
export OMP_NUM_THREADS=1

# shellcheck source=scripts/environment.sh
. scripts/environment.sh
install_requirements tests/requirements.txt
if ! ls "$LMMS_VENV"/lib/*/site-packages/lent.pth > /dev/null 2>&1; then  # written last: a kill leaves nothing half
    python -m venv "$LMMS_VENV"
    lent=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "import site; site.addsitedir('$lent')" \
        > "$("$LMMS_VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lent.pth"
fi
# shellcheck disable=SC1091
. "$LMMS_VENV/bin/activate"
install_requirements eval/lmms_eval_plugin/requirements.txt
# The torchvision of PyPI cannot be loaded beside a torch without CUDA, and transformers would try to.
if [ "${INSTALL:-yes}" != no ] && ! python -c 'import torchvision' 2>/dev/null; then
    python -m pip uninstall --quiet --quiet --yes torchvision
fi

python -m pytest tests/run_lmms_eval.py "$@"
