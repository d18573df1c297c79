"""dense-conformance: proves that a dense layer is a Dense, or names what is wrong with it."""
