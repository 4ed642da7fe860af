"""How well a model points and counts, by the protocols under which Molmo's numbers are published."""
