"""The core: the op record and its table, tensors, the tape and its two walks, and the ways to define an op."""
