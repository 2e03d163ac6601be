"""The code that an export carries for Hugging Face's transformers; nothing here is imported by this project."""
