"""The layouts that a dataset's folder may have; each module reads one of them."""
