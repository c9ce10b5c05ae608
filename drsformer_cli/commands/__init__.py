"""One module a command: read options, call, report."""
