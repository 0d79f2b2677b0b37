#!/bin/sh
# The main job on what is bundled: the spatial probe with the flag off and on, one table, two heat maps.
#
#     sh scripts/quickstart.sh [arguments of eval/probe.py]
#
# A minute or two after installation. A checkpoint of your own: MODEL_PATH=/path/to/checkpoint sh scripts/quickstart.sh
set -eu
here=$(pwd)
cd "$(dirname "$0")/.."

MODEL_PATH=${MODEL_PATH:-}               # a folder or hub id; without one, a tiny checkpoint with random weights
FAMILY=${FAMILY:-llava_next_mistral}     # which tiny checkpoint (models/tiny.py --help)
RESULTS=${RESULTS:-results/quickstart}   # everything is written below this folder
PHOTOS=data/samples/photos

# Paths are the caller's, not the repository's.
[ ! -d "$here/$MODEL_PATH" ] || [ -z "$MODEL_PATH" ] || MODEL_PATH=$here/$MODEL_PATH
case $RESULTS in /* | results/quickstart) ;; *) RESULTS=$here/$RESULTS ;; esac

# shellcheck source=scripts/environment.sh
. scripts/environment.sh

if [ -z "$MODEL_PATH" ]; then
    MODEL_PATH=$RESULTS/tiny-$FAMILY
    [ -f "$MODEL_PATH/config.json" ] || python models/tiny.py --family "$FAMILY" --output_dir "$MODEL_PATH"
    RANDOM_WEIGHTS=yes
    set -- --max_new_tokens 1 "$@"  # what a random model says after its first word is noise
fi
out=$RESULTS/answers-$(basename "$MODEL_PATH")

python data/build_probe.py --source "$PHOTOS" --num_captions "$(grep -c . "$PHOTOS/captions.jsonl")" --negatives 1.0 \
    --output_dir "$RESULTS/probe"
for flag in false true; do
    python eval/probe.py --model_path "$MODEL_PATH" --position_balance "$flag" \
        --eval_file "$RESULTS/probe/probe.jsonl" --img_path "$RESULTS/probe/images" \
        --answers_file "$out/balance-$flag.jsonl" "$@"
done
python eval/metrics.py --results_file "$out/balance-false.jsonl" --results_file "$out/balance-true.jsonl" \
    --labels off on --output_heatmap "$out/heatmap.png" --output_json "$out/metrics.json"
if [ -n "${RANDOM_WEIGHTS:-}" ]; then
    echo "The bundled checkpoint has random weights: the numbers above show that everything runs, nothing else."
fi
echo "Canvases: $RESULTS/probe/images; answers and heat maps: $out"
