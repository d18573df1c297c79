"""The suite judged by layers that are known to be wrong or right."""
