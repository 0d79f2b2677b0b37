# Sourced by the other scripts: a virtual environment with everything of requirements.txt.
#
# The environment that VIRTUAL_ENV names, or an active one of conda (but its base), is used as it is; otherwise .venv is
# made. What is installed already is not looked up again, so that nodes without a network can run the scripts;
# INSTALL=no never installs, and INSTALL=global installs also into a Python that is no virtual environment (a container's).
# On a machine without a GPU, where torch is not there yet, TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu saves
# gigabytes of CUDA libraries.

if [ -n "${VIRTUAL_ENV:-}" ]; then
    # It may be named without being active: a test or an editor starts its python by path.
    if [ ! -f "$VIRTUAL_ENV/bin/activate" ]; then
        echo "error: VIRTUAL_ENV is $VIRTUAL_ENV, which is no virtual environment; unset it, or make one there" >&2
        exit 2
    fi
    # shellcheck disable=SC1091
    . "$VIRTUAL_ENV/bin/activate"
elif [ -z "${CONDA_PREFIX:-}" ] || [ "${CONDA_DEFAULT_ENV:-}" = base ]; then
    # activate is written last: without it, a venv that a kill cut short is made again.
    [ -f .venv/bin/activate ] || "${PYTHON:-python3}" -m venv .venv
    # shellcheck disable=SC1091
    . .venv/bin/activate
fi
if ! python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $(python --version) is too old; set PYTHON to Python 3.11 or 3.12 and remove .venv" >&2
    exit 2
fi
case "${INSTALL:=yes}" in
    no | global) ;;
    yes)
        # Nothing is installed into the machine's own Python, whatever the path leads to.
        if ! python -c 'import os, sys; sys.exit(sys.prefix == sys.base_prefix and not os.environ.get("CONDA_PREFIX"))'; then
            echo "error: $(command -v python) is no virtual environment's; activate one, or set INSTALL=no or INSTALL=global" >&2
            exit 2
        fi
        ;;
    *)
        echo "error: INSTALL is $INSTALL; give yes, no or global" >&2
        exit 2
        ;;
esac

# install_requirements FILE: install a requirements file, unless this environment has had it in its present form.
install_requirements() {
    [ "$INSTALL" != no ] || return 0
    stamp=$(python -c 'import sys; print(sys.prefix)')/.bapa-$(echo "$1" | tr / -)
    wanted="$(pwd) $(cksum < "$1")"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        python -m pip install --quiet --requirement "$1"
        echo "$wanted" > "$stamp"
    fi
}

if [ "$INSTALL" != no ] && [ -n "${TORCH_INDEX_URL:-}" ] && ! python -c 'import torch' 2>/dev/null; then
    python -m pip install --quiet --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' requirements.txt)"
fi
install_requirements requirements.txt
