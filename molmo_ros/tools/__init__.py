"""Commands behind `molmo-ros`: they may import anything; nothing imports them."""
