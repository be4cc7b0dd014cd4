"""Contextual embeddings of a corpus: its sentences, which tokens in them are kept, and their states."""
