"""A checkpoint folder: what it is, its tokenizer and prompt, and how it wants its images."""
