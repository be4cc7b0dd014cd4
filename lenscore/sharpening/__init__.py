"""A corpus that grows with the question: words that LatentLens found at patches, in new sentences, searched again."""
