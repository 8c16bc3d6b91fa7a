"""The two modules that ask the network: a running server, and the Hugging Face Hub."""
