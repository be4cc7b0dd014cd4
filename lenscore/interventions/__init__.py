"""What a model does when the states of visual tokens are other ones: causal tests of what lenses say."""
