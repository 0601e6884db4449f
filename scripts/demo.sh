#!/usr/bin/env bash
# From a fresh clone to a trained eye segmenter, its masks and its report, on synthetic images. Needs no data, no GPU.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
fastseg() { "$PYTHON" -m fastseg "$@"; }

data=data/demo
echo "demo: 80 synthetic eyes to learn from, 12 fresh ones to judge by, in $data"
[ -d "$data/eye" ] || fastseg sample eye "$data/eye" --n 80 --seed 0
[ -d "$data/fresh" ] || fastseg sample eye "$data/fresh" --n 12 --seed 1
echo "demo: training"
fastseg fit eye --data "$data/eye" --weights none --size 96x128 --epochs 20 --lr 1e-2 --out exports/demo
echo "demo: predicting the fresh images"
fastseg predict eye "$data/fresh/imgs_small" --export exports/demo --out demo_inf_masks --overlay
echo "demo: judging them"
fastseg evaluate eye --data "$data/fresh" --split all --export exports/demo
fastseg interpret eye --export exports/demo
here=$(pwd)
cat <<END

Done. Look at:
  masks     $here/demo_inf_masks (to look at: $here/demo_inf_masks/overlays)
  pictures  $here/exports/demo/show_results.png and its neighbours
  report    $here/exports/demo/report.html
Next, your own images: data/eye/README.md says how they should lie, then: fastseg fit eye
END
