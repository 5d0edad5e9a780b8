"""The programs that this package is compared with."""
