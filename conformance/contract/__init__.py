"""What a Dense must do: requirement records, the catalogue, and to which layers each applies."""
