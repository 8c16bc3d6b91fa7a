"""The paths of the HTTP APIs, one file per API; each has `add(app, service)`."""
