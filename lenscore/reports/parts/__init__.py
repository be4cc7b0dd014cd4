"""Shared parts of the sections of a report: figures, text formats, and common numbers."""
