"""A self-test of a loaded model: checks of image tokens, layers and logits on the model itself."""
