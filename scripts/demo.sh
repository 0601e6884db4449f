#!/usr/bin/env bash
# Train an eye segmenter on synthetic images, write its masks and its report. Needs no data and no GPU.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
fastseg() { "$PYTHON" -m fastseg "$@"; }

data=data/demo
echo "demo: making 80 synthetic eyes for training and 12 for testing in $data"
[ -d "$data/eye" ] || fastseg sample eye "$data/eye" --n 80 --seed 0
[ -d "$data/fresh" ] || fastseg sample eye "$data/fresh" --n 12 --seed 1
echo "demo: training"
fastseg fit eye --data "$data/eye" --weights none --size 96x128 --epochs 20 --lr 1e-2 --out exports/demo
echo "demo: predicting the test images"
fastseg predict eye "$data/fresh/imgs_small" --export exports/demo --out demo_inf_masks --overlay
echo "demo: evaluating the predictions"
fastseg evaluate eye --data "$data/fresh" --split all --export exports/demo
fastseg interpret eye --export exports/demo
here=$(pwd)
cat <<END

Done. Look at:
  masks     $here/demo_inf_masks (to look at: $here/demo_inf_masks/overlays)
  pictures  $here/exports/demo/show_results.png and its neighbours
  report    $here/exports/demo/report.html
Next, use your own images: data/eye/README.md describes the folders, then run: fastseg fit eye
END
