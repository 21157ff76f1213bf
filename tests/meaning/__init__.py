"""What pictures mean: the shipped model draws, a judge looks."""
