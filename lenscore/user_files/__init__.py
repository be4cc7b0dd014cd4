"""Files that users bring: found, opened and read row after row, with every odd row counted or refused."""
