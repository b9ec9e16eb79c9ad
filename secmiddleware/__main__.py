"""`python -m secmiddleware` is `secmiddleware`."""

from secmiddleware.cli import main

main()
