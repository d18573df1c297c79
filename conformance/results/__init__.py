"""Results as data: outcomes, cells, verdicts, blame, the file and its schema."""
