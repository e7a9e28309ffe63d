"""Folders that Hugging Face's libraries load, and back."""
