#!/usr/bin/env bash
# Joins the model's pieces, dequantises it, and tunes it to read chunks side by side: run_blocks.sh WORK OUT [arguments of train_blocks.py]
# WORK as for run_reader.sh.
set -euo pipefail
work=$1 out=$2
shift 2
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD:$PWD/benchmarks:${PYTHONPATH:-} XDG_CACHE_HOME=$work/cache
gguf=$work/SmolLM2-135M-Instruct.Q4_1.gguf
[ -f "$gguf" ] || cat "$work"/piece.* > "$gguf"
model=$(python3 -c "from mllm_plugin.llm.models import resolve_llm; print(resolve_llm('$gguf'))")
python3 benchmarks/gpu/train_blocks.py --model "$model" --texts "$work/reader-texts.npz" --out "$out" --compile "$@"
