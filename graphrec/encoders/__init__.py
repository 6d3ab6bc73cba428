"""Node-feature encoders: they read a node's row of the graph as of a time and return a vector."""
