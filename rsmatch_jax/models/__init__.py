"""The networks. The only folder that imports flax.linen."""
