"""The ASGI shell: in process where the very messages count, over a real server where the bytes do."""
