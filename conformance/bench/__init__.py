"""What a run costs, measured beside what it would cost without this suite's measures."""
