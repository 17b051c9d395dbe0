"""What is generated: python -m scripts.generate, python -m scripts.bundled_images."""
