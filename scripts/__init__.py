"""What is generated: python -m scripts.generate."""
