"""``fibecfed`` and ``python -m fibecfed``."""

import sys


def main() -> None:
    """Entry point of the ``fibecfed`` command; Ctrl-C before a command begins is one line, too."""
    try:
        from fibecfed.importing import process_of_one_command, uncollected
        from fibecfed.interruption import interruptible

        process_of_one_command()
        with interruptible(), uncollected():
            from fibecfed.cli.app import main as carry_out
        carry_out()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)  # as of a command that a shell saw interrupted


if __name__ == "__main__":
    main()
