"""Who decides whether the words of a lens fit a patch: which patches, which words, and the judges themselves."""
