#!/usr/bin/env bash
# Install what the tests need and run them. Without arguments: in two processes all tests that are
# not marked slow. Arguments go to pytest as they are: scripts/test.sh -n 2 -m slow runs the others,
# scripts/test.sh -n 2 --cov all of them, and measures the coverage of the package.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
if [ $# -gt 0 ]; then
  exec "$PYTHON" -m pytest "$@"
fi
"$PYTHON" -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder --durations=15 # order: conftest.py
. scripts/setup.sh face # last: it installs an older numpy
# -W default: mediapipe and its pinned dependencies are no longer updated, and give warnings
"$PYTHON" -m pytest -W default tests/test_importers_landmarks.py
