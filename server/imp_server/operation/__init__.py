"""What runs the server: settings, logs, metrics, layers around the application, start and end."""
