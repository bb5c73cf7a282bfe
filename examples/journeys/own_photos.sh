#!/usr/bin/env bash
# Own photographs, whose classes no prior knows: from a folder to a set, a report and a trained network of timm.
# bash examples/journeys/own_photos.sh [FOLDER]      docs/tutorials/own_photos.md explains the steps.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
cd "${1:-$(mktemp -d)}"

python "$here/journeys/make_photos.py" photos # stands for your photographs: photos/train/kite/0.jpg and so on
dap distill photos/train --method k_medoids --ipc 10 --out own
dap report own --real photos/train --out report.html
python "$here/train_timm.py" own photos/test --epochs 40 --size 32
