#!/usr/bin/env bash
# Runs the tests marked cuda, which need no weights: run_tests.sh [arguments of pytest]
# $MLLM_DEVICE=cpu rehearses them. pytest's settings are left aside, since they ask for plugins.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONPATH=$PWD:$PWD/integrations:${PYTHONPATH:-} HF_HUB_OFFLINE=1
python3 -m pytest -c /dev/null --rootdir=. --import-mode=importlib -W ignore::pytest.PytestUnknownMarkWarning -p no:cacheprovider -q -ra \
    tests/test_cuda.py tests/training/routing/test_training.py::test_on_cuda "$@"
