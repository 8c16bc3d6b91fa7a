"""From a request to the events of its reply: tokens, options, stops, times."""
