"""The implementations that come with the suite, and the wrong layers that prove it."""
