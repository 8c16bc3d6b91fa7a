"""What the command line shows: progress, tables, text as it comes."""
