"""What happens to watched renders, and the webhooks that tell of it."""
