"""Fifth floor: `pullback bench`, and the races that benchmarks are made of."""
