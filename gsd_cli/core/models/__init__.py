"""What a network is: a denoiser, the generator, an autoencoder, feature maps, and their folders."""
