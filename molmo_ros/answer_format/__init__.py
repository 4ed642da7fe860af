"""How each generation of Molmo writes points: grammar, parser, confidence and covariance."""
