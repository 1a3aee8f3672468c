"""Times of an op beside those of other implementations that are given the same spec."""
