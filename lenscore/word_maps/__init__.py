"""Any word as a map of an image: its score, probability and rank on every patch and layer."""
