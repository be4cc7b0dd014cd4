"""Contextual embeddings of a corpus: sentences, choice of tokens, hidden states."""
