#!/usr/bin/env bash
# Install what the tests need and run them. Without arguments: all tests in two processes, with the
# coverage of the package at the end. Arguments go to pytest as they are: scripts/test.sh -x --pdb
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
if [ $# -gt 0 ]; then
  exec "$PYTHON" -m pytest "$@"
fi
export COVERAGE_CORE=sysmon # faster; Python 3.12 and later have it
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 12))' || unset COVERAGE_CORE
"$PYTHON" -m pytest -n 2 --dist loadfile --durations=15 --cov --cov-report=term --cov-fail-under=90
. scripts/setup.sh face # last: it installs an older numpy
# -W default: mediapipe and its pinned dependencies are no longer updated, and give warnings
"$PYTHON" -m pytest -W default tests/test_importers_landmarks.py
