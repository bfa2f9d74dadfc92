"""Why can A reach B, or not: the way of a flow's first packet through what is wanted. A pure function of the wishes."""
