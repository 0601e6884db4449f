#!/usr/bin/env bash
# Install what the documentation needs and build it into build/docs; a warning is an error.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh" docs
NO_MKDOCS_2_WARNING=1 "$PYTHON" -m mkdocs build --strict --clean --config-file .github/mkdocs.yml
echo "docs: build/docs/index.html"
