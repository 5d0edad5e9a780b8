"""A small class-conditional diffusion model that draws a pool."""
