#!/usr/bin/env bash
# Makes what travels to a machine without a network, in folders of at most 33 MB: pack.sh DATA INTO [PYTHON_VERSION of that machine]
# INTO/a, INTO/b, INTO/c: the model in pieces; INTO/t: texts to train on; INTO/w: wheels, and vectors to walk over.
set -euo pipefail
data=$1 into=$2 python=${3:-3.12}
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$into"/{a,b,c,t,w}
gguf=$(python3 -c "from mllm_plugin.llm.models import DEFAULT_LLM, _PACKAGED; from mllm_plugin.models.pretrained import packaged; print(packaged(DEFAULT_LLM, _PACKAGED))")
split -n 3 -d "$gguf" "$into/piece."
mv "$into/piece.00" "$into/a/" && mv "$into/piece.01" "$into/b/" && mv "$into/piece.02" "$into/c/"
platforms=()
for name in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do platforms+=(--platform "${name}_x86_64"); done
for name in pydantic pydantic-core annotated-types typing-inspection typing-extensions apsw diskcache gguf pathspec regex \
    pytest iniconfig packaging pluggy Pygments beartype jaxtyping wadler-lindig; do
    version=$(grep -iE "^${name//-/[-_]}==" "$here/constraints.txt" | head -1 | cut -d' ' -f1 || true)
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "$python" --implementation cp \
        --abi "cp${python//./}" --abi abi3 --abi none "${platforms[@]}" --dest "$into/w" "${version:-$name}"
done
export PYTHONPATH="$here/benchmarks:$here"
python3 "$here/benchmarks/gpu/walk.py" prepare --data "$data" --out "$into/w"
python3 "$here/benchmarks/gpu/prepare_reader.py" --data "$data" --out "$into/t/reader-texts.npz"
du -sh "$into"/*
