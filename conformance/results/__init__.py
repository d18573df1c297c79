"""What was found, as data: outcomes, cells, verdicts, blame, the file and its schema."""
