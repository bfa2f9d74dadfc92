"""Pure: what a user asks for."""
