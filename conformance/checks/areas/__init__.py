"""What the requirements of one area of the contract check with, beside the vocabulary."""
