"""A trained model behind an address: what `atrous serve` is made of, and the client that asks it."""
