"""Chat templates: rendered, probed, and conversations put the way they want them."""
