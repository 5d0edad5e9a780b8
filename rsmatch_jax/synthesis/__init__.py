"""Making synthetic pools."""
