#!/usr/bin/env bash
# Install what the tests need and run them; arguments go to pytest.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
exec "$PYTHON" -m pytest "$@"
