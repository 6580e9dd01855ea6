"""Sources of pictures and sinks for masks, one file per kind."""
