"""Following a point through the images between two answers of the model."""
