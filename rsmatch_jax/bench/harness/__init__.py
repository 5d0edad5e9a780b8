"""What all benches share: requests, timing, results, compiled text."""
