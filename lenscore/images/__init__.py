"""Image files, preprocessing, and the patch of each visual token."""
