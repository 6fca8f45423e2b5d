#!/usr/bin/env bash
# Evaluate a saved model on a labelled file. It needs the saved directory alone: bash scripts/test.sh [more flags of predict.py]
set -euo pipefail
cd "$(dirname "$0")/.."

SAVED_DIR=${SAVED_DIR:-checkpoint}
TEST_FILE=${TEST_FILE:-data/reviews/test.tsv}
OUTPUT_FILE=${OUTPUT_FILE:-$SAVED_DIR/predictions.tsv}
GPUS=${GPUS:-$({ nvidia-smi --list-gpus 2>/dev/null || true; } | wc -l)}   # 0 predicts on the CPU

torchrun --standalone --nproc_per_node="$((GPUS > 0 ? GPUS : 1))" predict.py \
    --model_dir "$SAVED_DIR" \
    --input_file "$TEST_FILE" \
    --output_file "$OUTPUT_FILE" \
    --evaluate \
    "$@"
