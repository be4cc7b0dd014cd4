"""One image through all lenses, as a page, a figure for a paper, and a table."""
