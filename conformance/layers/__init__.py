"""The layers under test: named, loaded, described and adapted to pure functions."""
