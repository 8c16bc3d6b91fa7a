"""The commands of `imp`, one module each: NAME and the function `command` that typer reads."""
