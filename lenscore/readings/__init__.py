"""What the lenses say of an image, in words that people read."""
