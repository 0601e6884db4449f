#!/usr/bin/env bash
# Install what the tests need and run them; arguments go to pytest.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
"$PYTHON" -m pytest "$@"
if [ $# -eq 0 ]; then  # the extra comes last: it brings an older numpy with it
  . scripts/setup.sh face
  "$PYTHON" -m pytest tests/test_importers_landmarks.py
fi
