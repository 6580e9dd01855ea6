"""Which pictures belong to which split and to which group."""
