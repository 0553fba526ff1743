"""Conversations: the formats people keep them in, and the template that turns them into a model's tokens."""
