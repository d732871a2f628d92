"""Sharing of models through the Hugging Face hub, only when the user asks for it."""
