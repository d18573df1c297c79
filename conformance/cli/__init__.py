"""The command: one module for each subcommand, and the notebook's ``check``."""
