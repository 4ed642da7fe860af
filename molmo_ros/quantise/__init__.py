"""Rounding of weights to few bits that looks at what goes through them: AWQ, GPTQ, mixed precision."""
