"""The large-sample theory of a die's shares, compared with very many dice."""
