"""One image at a glance: what every lens says of it, as a page, a figure for a paper, and a table."""
