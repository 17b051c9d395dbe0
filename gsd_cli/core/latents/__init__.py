"""Images to latents and latents to images: inversion, tuning, rendering, walks."""
