"""The HTTP APIs: a room each with its requests, replies and routes, and here what they share."""
