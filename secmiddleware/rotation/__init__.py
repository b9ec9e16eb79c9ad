"""Where key rings stand, and the one thread of a process that watches them."""
