"""A run from its first step or a checkpoint to its last: step, loss, optimizer, checkpoints."""
