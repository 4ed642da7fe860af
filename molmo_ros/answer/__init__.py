"""The decode loop: image and prompt in, the model's answer out."""
