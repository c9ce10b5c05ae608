"""The `drsformer` command: everything a person touches. The network is the package `drsformer`."""
