"""`python -m mllm_plugin` is the command line."""

from mllm_plugin.cli import main

if __name__ == "__main__":
    main(prog_name="mllm")
