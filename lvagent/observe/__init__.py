"""Events and the clock: they only put names into a queue."""
