#!/usr/bin/env bash
# Makes report.png, the picture at the top of README.md: a run on digits, and its page in Chromium. And the two figures
# of AutoLR in docs/guides/rates.md, of another run on digits. (rates.svg and rates_in_short.svg are of benchmarks.rates --table.)
#   docs/pictures/make.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
run=$(mktemp -d)/digits
./launch.sh finetune --dataset=digits --test_fraction=0.8 --epochs=10 --workdir="$run"
chromium --headless --no-sandbox --hide-scrollbars --window-size=1040,1500 --screenshot="$run/page.png" "file://$run/report.html"
# 128 colours are enough for a page, and a fifth of the bytes.
.venv/bin/python -c 'import sys; from PIL import Image
Image.open(sys.argv[1]).convert("RGB").quantize(128).save(sys.argv[2], optimize=True)' "$run/page.png" docs/pictures/report.png
autolr=$(mktemp -d)/autolr
./launch.sh finetune --dataset=digits --method=autolr --image_size=32 --images_per_class=40 --batch_size=16 --epochs=5 \
  --schedule=constant --figures=svg --workdir="$autolr"
cp "$autolr/variations.svg" docs/pictures/autolr_variations.svg
cp "$autolr/trials.svg" docs/pictures/autolr_trials.svg
