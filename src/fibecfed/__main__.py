"""``python -m fibecfed``."""

from fibecfed.cli.app import main

main()
