"""What stands between the socket and the application: plain ASGI, so that a client's leaving is seen at once."""
