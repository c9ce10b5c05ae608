"""The `drsformer` command: everything a person touches. The network is the package `drsformer`."""

__version__ = "0.1.0"
