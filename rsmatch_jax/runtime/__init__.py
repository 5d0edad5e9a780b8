"""Devices and processes: the mapped step, compilation, several hosts, stop signals."""
