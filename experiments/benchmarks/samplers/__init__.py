"""Speed and size of the samplers beside DGL and PyG: ``python -m experiments.benchmarks.samplers``."""
