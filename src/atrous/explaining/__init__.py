"""What explain is made of: how sure a model is of a picture, and which of its parts said so."""
