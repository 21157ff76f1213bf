"""The protocols of other people's clients: OpenAI, AUTOMATIC1111, Replicate."""
