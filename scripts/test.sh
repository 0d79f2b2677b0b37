#!/bin/sh
# Install what the tests need and pass them.
#
#     sh scripts/test.sh [arguments of pytest]
set -eu
cd "$(dirname "$0")/.."

# shellcheck source=scripts/environment.sh
. scripts/environment.sh
install_requirements tests/requirements.txt

ruff check .
ruff format --check .
shellcheck -s sh scripts/*.sh
python -m pytest "$@"
