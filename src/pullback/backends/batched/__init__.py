"""Arrays of many examples that ops see as one example each; imported when `vmap` is first called."""
