"""Whether a compiled model's answers hang together: `imp verify --text`."""
