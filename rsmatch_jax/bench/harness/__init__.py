"""What all benches share: flags, timing, figures, tables, programs, compiled text."""
