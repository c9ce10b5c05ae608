"""The `drsformer` command: everything a person touches. The network is the package `drsformer`."""

from drsformer import __version__ as __version__
