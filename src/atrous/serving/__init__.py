"""The HTTP server of `atrous serve`, and its Python client."""
