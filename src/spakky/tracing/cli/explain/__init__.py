"""Says in words what headers mean: the command, and how its findings are drawn or written as JSON."""
