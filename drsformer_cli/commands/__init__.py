"""One module per command: it reads the options, calls the code that does the work, and reports the result."""
