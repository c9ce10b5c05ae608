"""Entry point of `python -m drsformer_cli`, which torchrun needs."""

from drsformer_cli.app import run

run()
