"""lenscore: which words the hidden states of vision-language models stand for, at scale."""
