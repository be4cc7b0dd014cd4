"""One text through a language model and its lenses: in a notebook, as a page, as a table."""
