"""Results of the lenses as words."""
