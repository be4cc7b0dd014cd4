"""Files of the user: found, opened and read row by row, with every irregular row counted or refused."""
