"""Where the command line begins: little is imported here, so that Ctrl-C is heard at once."""

import sys

from polyrank.cli.interrupt import INTERRUPTED, Interrupts


def main() -> None:
    """Run the command line. Errors that polyrank expects never show a traceback."""
    interrupts = Interrupts()
    interrupts.listen()
    try:
        from polyrank.cli.app import run

        interrupts.is_importing = False
        run()
    except BaseException:
        # what was interrupted may end in any error: a library turns Ctrl-C into its own
        if not interrupts.is_set:
            raise
        interrupts.say()
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
