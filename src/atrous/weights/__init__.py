"""Foreign checkpoints, one adapter each; foreign key names never leave this room."""
