"""The runtime "remote": an OpenAI-compatible server answers in place of a network of our own."""
