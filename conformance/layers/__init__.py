"""What is under test: how it is named, loaded, described and adapted to pure functions."""
