#!/usr/bin/env bash
# Joins the model's pieces, dequantises it, and trains: run_training.sh train_reader|train_blocks WORK OUT [arguments of that script]
# WORK holds piece.00, piece.01, … of the GGUF file and reader-texts.npz/.json.
set -euo pipefail
script=$1 work=$2 out=$3
shift 3
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD:$PWD/benchmarks:${PYTHONPATH:-} XDG_CACHE_HOME=$work/cache
gguf=$work/SmolLM2-135M-Instruct.Q4_1.gguf
[ -f "$gguf" ] || cat "$work"/piece.* > "$gguf"
model=$(python3 -c "from mllm_plugin.llm.models import resolve_llm; print(resolve_llm('$gguf'))")
python3 "benchmarks/gpu/$script.py" --model "$model" --texts "$work/reader-texts.npz" --out "$out" --compile "$@"
