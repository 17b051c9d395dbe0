"""How latents can be found, joined by walks and distinguished."""
