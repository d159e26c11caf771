"""How a stage's script ends: errors that a user can mend come as one line, not as a traceback."""

import signal
import sys
from collections.abc import Callable

from r2plus1d.errors import UserError


def run(main: Callable, argv: list[str] | None = None) -> None:
    """Calls `main`, with the row's name where the stage has one (`argv` given), and exits."""
    if argv is not None and len(argv) != 2:
        sys.exit(f"usage: python {argv[0] if argv else 'stage'} ROW")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated; run the same command again to go on"))
    try:
        main(*(argv or [])[1:])
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; what was finished is kept, run the same command again to go on")
