"""The command line, one module for each subcommand, and ``conformance.check``."""
