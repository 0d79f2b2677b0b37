#!/bin/sh
# The main job on what is bundled: the spatial probe with the flag off and on, one table, two heat maps, one page.
#
#     sh scripts/quickstart.sh [arguments of eval/probe.py]
#
# A minute or two after installation, on the bundled miniature LLaVA and pictures that it never saw. A checkpoint of
# your own, on the bundled photographs: MODEL_PATH=/path/to/checkpoint sh scripts/quickstart.sh; a tiny one of any family,
# with random weights: FAMILY=gemma3 sh scripts/quickstart.sh
set -eu
here=$(pwd)
cd "$(dirname "$0")/.."

MODEL_PATH=${MODEL_PATH:-}               # a folder or hub id; without one, models/miniature
FAMILY=${FAMILY:-}                       # or a tiny checkpoint of this family
RESULTS=${RESULTS:-results/quickstart}   # everything is written below this folder
CAPTIONS=${CAPTIONS:-30}                 # of the drawn probe, each asked for in nine cells, and as often in vain
PHOTOS=data/samples/photos

# Paths are the caller's, not the repository's.
[ ! -d "$here/$MODEL_PATH" ] || [ -z "$MODEL_PATH" ] || MODEL_PATH=$here/$MODEL_PATH
case $RESULTS in /* | results/quickstart) ;; *) RESULTS=$here/$RESULTS ;; esac

# shellcheck source=scripts/environment.sh
. scripts/environment.sh

python data/build_probe.py --source "$PHOTOS" --num_captions "$(grep -c . "$PHOTOS/captions.jsonl")" --negatives 1.0 \
    --output_dir "$RESULTS/probe"
probe=$RESULTS/probe
if [ -n "$FAMILY" ]; then
    MODEL_PATH=$RESULTS/tiny-$FAMILY
    [ -f "$MODEL_PATH/config.json" ] || python models/tiny.py --family "$FAMILY" --output_dir "$MODEL_PATH"
    set -- --max_new_tokens 1 "$@"  # what a random model says after its first word is noise
elif [ -z "$MODEL_PATH" ]; then
    MODEL_PATH=models/miniature
    # The test pictures do not depend on how many others are drawn.
    world=$RESULTS/miniature-$CAPTIONS-paper
    [ -f "$world/manifest.json" ] || python data/build_miniature.py --output_dir "$world" --pictures 1 --captions 9 \
        --scenes 9 --instructions 9 --probe_captions "$CAPTIONS" --layout paper
    probe=$world/probe
    set -- --max_new_tokens 3 "$@"
fi
out=$RESULTS/answers-$(basename "$MODEL_PATH")

for flag in false true; do
    python eval/probe.py --model_path "$MODEL_PATH" --position_balance "$flag" \
        --eval_file "$probe/probe.jsonl" --img_path "$probe/images" --answers_file "$out/balance-$flag.jsonl" "$@"
done
python eval/metrics.py --results_file "$out/balance-false.jsonl" --results_file "$out/balance-true.jsonl" \
    --labels off on --output_heatmap "$out/heatmap.png" --output_json "$out/metrics.json"
python eval/report.py --results_dir "$out" --img_path "$probe/images" --output "$out/report.html"
case $MODEL_PATH in
    models/miniature) echo "The miniature was trained with the flag off (models/miniature/README.md): on is BaPA" \
        "without training." ;;
    */tiny-*) echo "The tiny checkpoint has random weights: the numbers above show that everything runs, nothing else." ;;
esac
echo "The probe's canvases of photographs: $RESULTS/probe/images; those asked about: $probe/images"
echo "Answers, numbers and heat maps: $out"
echo "The same on one page, with replies that changed, to open in a browser: $out/report.html"
