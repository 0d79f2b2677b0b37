#!/bin/sh
# Install what the tests need and pass them.
#
#     sh scripts/test.sh [arguments of pytest]
set -eu
cd "$(dirname "$0")/.."

TEST_PROCESSES=${TEST_PROCESSES:-2}   # that share the tests
export OMP_NUM_THREADS=1              # of each: for small models, threads cost more than they give

# shellcheck source=scripts/environment.sh
. scripts/environment.sh
install_requirements tests/requirements.txt

ruff check .
ruff format --check .
shellcheck -s sh scripts/*.sh
python -m pytest -n "$TEST_PROCESSES" --dist worksteal "$@"
