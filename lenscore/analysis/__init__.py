"""The analysis of images: one forward pass a batch, then every lens on every layer that is asked for."""
