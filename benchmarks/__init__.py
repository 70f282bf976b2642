"""What pullback costs beside its peers, one question a file. `python -m benchmarks` answers all of them."""
