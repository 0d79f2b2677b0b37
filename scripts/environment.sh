# Sourced by the other scripts: a virtual environment with everything of requirements.txt.
#
# An active environment (venv, or conda but its base) is used as it is; otherwise .venv is made. What is installed
# already is not looked up again, so that nodes without a network can run the scripts; INSTALL=no never installs.
# On a machine without a GPU, where torch is not there yet, TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu saves
# gigabytes of CUDA libraries.

if [ -z "${VIRTUAL_ENV:-}" ] && { [ -z "${CONDA_PREFIX:-}" ] || [ "${CONDA_DEFAULT_ENV:-}" = base ]; }; then
    # activate is written last: without it, a venv that a kill cut short is made again.
    [ -f .venv/bin/activate ] || "${PYTHON:-python3}" -m venv .venv
    # shellcheck disable=SC1091
    . .venv/bin/activate
fi
if ! python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $(python --version) is too old; set PYTHON to Python 3.11 or 3.12 and remove .venv" >&2
    exit 2
fi

# install_requirements FILE: install a requirements file, unless this environment has had it in its present form.
install_requirements() {
    [ "${INSTALL:-yes}" != no ] || return 0
    stamp=$(python -c 'import sys; print(sys.prefix)')/.bapa-$(echo "$1" | tr / -)
    wanted="$(pwd) $(cksum < "$1")"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        python -m pip install --quiet --requirement "$1"
        echo "$wanted" > "$stamp"
    fi
}

if [ "${INSTALL:-yes}" != no ] && [ -n "${TORCH_INDEX_URL:-}" ] && ! python -c 'import torch' 2>/dev/null; then
    python -m pip install --quiet --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' requirements.txt)"
fi
install_requirements requirements.txt
