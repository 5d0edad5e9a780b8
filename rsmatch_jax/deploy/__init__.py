"""Trained models for inference, without the parts that only training needs."""
