"""purity."""
