"""Sources that read pictures and sinks that write masks, one module per kind."""
