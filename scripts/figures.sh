#!/bin/sh
# Draw the figures of README.md anew: positions, the top of the quickstart's page, the miniature's experiment from its
# saved results, occlusion maps of the miniature.
#
#     sh scripts/figures.sh
#
# The page is photographed by a Chromium (on Debian: apt-get install chromium). What has answers already is not asked
# again, so that the second time takes a minute.
set -eu
cd "$(dirname "$0")/.."

BROWSER=${BROWSER:-chromium}             # or google-chrome
RESULTS=${RESULTS:-results/quickstart}   # of scripts/quickstart.sh; the page shows this path
CAPTIONS=${CAPTIONS:-3}                  # whose canvases are covered
FIGURES=${FIGURES:-docs}                 # where to draw

# shellcheck source=scripts/environment.sh
. scripts/environment.sh

command -v "$BROWSER" >/dev/null || { echo "error: $BROWSER: no such browser; set BROWSER to a Chromium" >&2; exit 2; }
python eval/position_picture.py --output "$FIGURES/positions.png"
python eval/miniature_page.py --results_dir docs/miniature --findings docs/miniature/findings.md \
    --output "$FIGURES/miniature.md"

RESULTS=$RESULTS sh scripts/quickstart.sh
"$BROWSER" --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1200,980 \
    --screenshot="$RESULTS/report.png" "file://$(cd "$RESULTS" && pwd)/answers-miniature/report.html"
# In 256 colours: a third of the size, and no difference that one sees.
python -c 'import sys; from PIL import Image
colours = Image.open(sys.argv[1]).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
colours.save(sys.argv[2], optimize=True)' "$RESULTS/report.png" "$FIGURES/report.png"

probe=$RESULTS/miniature-30-paper/probe
for flag in false true; do
    python eval/perception.py --model_path models/miniature --position_balance "$flag" --eval_file "$probe/probe.jsonl" \
        --img_path "$probe/images" --output_dir "$RESULTS/perception/$flag" --num_captions "$CAPTIONS" --mask_size 56 \
        --max_new_tokens 3
done
python eval/plots.py perception --prob_results_dir "$RESULTS/perception/false" \
    --prob_results_dir "$RESULTS/perception/true" --labels "BaPA off" "BaPA on" --output_path "$FIGURES/perception.png"
