"""The training of Tuned Lens: translators of hidden states, layer by layer, on text."""
