"""Stable Diffusion: pictures from words, by denoising the latents of an autoencoder."""
