"""Speed and size measurements, each a program of its own."""
