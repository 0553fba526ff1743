"""The API server: OpenAI's routes over the models of this machine."""
