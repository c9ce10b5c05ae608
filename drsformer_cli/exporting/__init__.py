"""Write a network in the formats of other programs."""
