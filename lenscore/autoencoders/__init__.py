"""Natural language autoencoders: a model that describes a state in words, and one that makes the state of the words."""
