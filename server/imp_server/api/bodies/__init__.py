"""What the request bodies of several APIs share: fields, messages, formats, prompts, and what is wrong with them."""
