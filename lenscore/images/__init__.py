"""Images as users have them, as a model sees them, and which patch each visual token is."""
