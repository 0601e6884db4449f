#!/usr/bin/env bash
# Install what the tests need and run them. Without arguments: all tests in two processes. Arguments
# go to pytest as they are: scripts/test.sh -x --pdb, or scripts/test.sh -n 2 --cov, which measures
# the coverage of the package and takes a third more time.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
if [ $# -gt 0 ]; then
  exec "$PYTHON" -m pytest "$@"
fi
"$PYTHON" -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15 # order: conftest.py
. scripts/setup.sh face # last: it installs an older numpy
# -W default: mediapipe and its pinned dependencies are no longer updated, and give warnings
"$PYTHON" -m pytest -W default tests/test_importers_landmarks.py
