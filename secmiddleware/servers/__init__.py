"""How each server hands over the client certificate, and how `secmiddleware run` serves with it."""
