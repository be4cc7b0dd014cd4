"""The analysis of images: one forward pass for each batch, then every lens on every requested layer."""
