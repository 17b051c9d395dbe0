"""The text-to-image example: some 7,000 captioned emoji."""
