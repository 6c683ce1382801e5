"""Back-ends: each computes row statistics in its own way and says what it offers."""
