"""Row statistics of linear layers, whose logits are never stored whole."""
