"""The command line: what a command would do and take."""
