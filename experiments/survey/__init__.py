"""Report a survey's answers: their shares, what they go with, and what they depend on."""
