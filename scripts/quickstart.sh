#!/bin/sh
# The main job on what is bundled: the spatial probe with the flag off and on, one table, two heat maps.
#
#     sh scripts/quickstart.sh
#
# Minutes on a laptop. To run a checkpoint of your own: MODEL_PATH=/path/to/checkpoint sh scripts/quickstart.sh
set -eu
cd "$(dirname "$0")/.."

RESULTS=${RESULTS:-results/quickstart}  # everything is written below this folder
FAMILY=${FAMILY:-llava}                 # which tiny checkpoint, where MODEL_PATH names none
MODEL_PATH=${MODEL_PATH:-}
SAMPLES=data/samples/photos

# shellcheck source=scripts/environment.sh
. scripts/environment.sh

if [ -z "$MODEL_PATH" ]; then
    MODEL_PATH=$RESULTS/tiny-$FAMILY
    [ -f "$MODEL_PATH/config.json" ] || python models/tiny.py --family "$FAMILY" --output_dir "$MODEL_PATH"
    RANDOM_WEIGHTS=yes
fi
PHOTOS=$(grep -c . "$SAMPLES/captions.jsonl")
python data/build_probe.py --source "$SAMPLES" --num_captions "$PHOTOS" --negatives 1.0 --output_dir "$RESULTS/probe"
for flag in false true; do
    python eval/probe.py --model_path "$MODEL_PATH" --position_balance "$flag" \
        --eval_file "$RESULTS/probe/probe.jsonl" --img_path "$RESULTS/probe/images" \
        --answers_file "$RESULTS/balance-$flag.jsonl" "$@"
done
python eval/metrics.py --results_file "$RESULTS/balance-false.jsonl" --results_file "$RESULTS/balance-true.jsonl" \
    --labels off on --output_heatmap "$RESULTS/heatmap.png" --output_json "$RESULTS/metrics.json"
if [ -n "${RANDOM_WEIGHTS:-}" ]; then
    echo "The bundled checkpoint has random weights: the numbers above show that everything runs, nothing else."
fi
echo "Canvases: $RESULTS/probe/images; answers: $RESULTS/balance-*.jsonl; heat maps: $RESULTS/heatmap.png"
