"""What users know of their images: objects with their words, as boxes or masks, in the formats that there are."""
