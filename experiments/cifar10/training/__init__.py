"""A run from its first step or a checkpoint to its last: steps, optimizer, checkpoints."""
