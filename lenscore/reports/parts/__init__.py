"""What several sections of a report share: how to draw and format, and the numbers that more than one needs."""
