# Sourced by demo.sh, test.sh and docs.sh: a virtual environment with fastseg in it. Sets PYTHON; can be run again.
# Usage: . scripts/setup.sh [EXTRA]
extra="${1:-}"
unset PYTHONDONTWRITEBYTECODE # some containers set it: each process would compile torch's modules again
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stop() { echo "setup: $1" >&2; exit 1; }

if [ -n "${VIRTUAL_ENV:-}" ]; then
  PYTHON="$VIRTUAL_ENV/bin/python"
  [ -x "$PYTHON" ] || stop "the active virtual environment $VIRTUAL_ENV has no python; deactivate it and run this again"
else
  base=""
  for candidate in python3.12 python3.11 python3.13 python3.10 python3 python; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      base="$candidate"
      break
    fi
  done
  [ -n "$base" ] || stop "Python 3.10 or later is needed; install it and run this again"
  "$base" -c 'import venv, ensurepip' 2>/dev/null || stop "this Python has no venv module; install it (Debian: apt-get install python3-venv)"
  PYTHON=".venv/bin/python"
  [ -x "$PYTHON" ] || "$base" -m venv .venv || stop "the virtual environment .venv could not be made; see the lines above"
fi
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || stop "$PYTHON is too old; Python 3.10 or later is needed"

wanted="fastseg${extra:+[$extra]}"
if ! "$PYTHON" - "$wanted" <<'CHECK' >/dev/null 2>&1
import importlib.metadata as metadata, pathlib, sys
del sys.path[0]  # the current folder: what counts is what is installed
extra = sys.argv[1].partition("[")[2].rstrip("]")
home = metadata.distribution("fastseg")
import fastseg, fastai, segmentation_models_pytorch, torchvision
assert pathlib.Path(fastseg.__file__).resolve().parent.parent == pathlib.Path.cwd().resolve()
if extra == "test":
    import axe_playwright_python, importlinter, ipykernel, moto, mypy, nbmake, optuna, playwright, pre_commit, pytest, pytest_cov, ray, ruff, s3fs, simpy, xdist
if extra in ("docs", "test"):
    import material, mkdocs, mkdocstrings, mkdocstrings_handlers.python
if extra == "face" and sys.version_info < (3, 13):
    import mediapipe
CHECK
then
  free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
  if ! "$PYTHON" -c 'import torch' >/dev/null 2>&1 && [ "$free" -lt 9 ]; then
    stop "about 9 GB of free disk are needed for torch and its libraries, and $free GB are left here"
  fi
  echo "setup: installing $wanted into $(dirname "$(dirname "$PYTHON")") (some minutes the first time)"
  # uv installs in a fraction of pip's time, but it does not read pip's configuration.
  pip=("$PYTHON" -m pip --disable-pip-version-check)
  setting() { "${pip[@]}" config list 2>/dev/null | sed -n "s/^global\.$1='\(.*\)'$/\1/p" || true; }
  index="${PIP_INDEX_URL:-$(setting index-url)}"
  constraint="${PIP_CONSTRAINT:-$(setting constraint)}"
  cert="${PIP_CERT:-$(setting cert)}"
  uv=("$PYTHON" -m uv pip install --quiet --python "$PYTHON" ${index:+--default-index "$index"} ${constraint:+--constraint "$constraint"})
  what=(--editable ".${extra:+[$extra]}")
  ("${pip[@]}" install --quiet --quiet uv && export ${cert:+SSL_CERT_FILE="$cert"} && "${uv[@]}" "${what[@]}") ||
    # --no-compile: pip would compile 27,000 files for a minute, and Python compiles what it imports.
    "${pip[@]}" install --quiet --no-compile "${what[@]}" ||
    stop "pip could not install $wanted; the lines above say why (no network, no disk?)"
fi
