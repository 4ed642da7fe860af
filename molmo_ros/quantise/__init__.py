"""Activation-aware rounding of weights to few bits: AWQ, GPTQ, mixed precision."""
