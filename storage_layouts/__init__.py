"""Bytes on disk: schemas, encodings and crash safety of every file that lenscore writes."""
