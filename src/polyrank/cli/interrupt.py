"""Ctrl-C: an end within a second and one line, whatever the process is doing.

Python tells its main thread of a signal only between two steps of its own code. Native code that
runs for seconds, as tokenizers and encoders do, would delay that as long; so a second thread is
woken by the signal itself and ends the process if the main thread does not.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType

INTERRUPTED = 130
PATIENCE_S = 0.4  # what the main thread has to end in good order
_SHOW_CURSOR = "\x1b[?25h"  # which bars hide


class Interrupted(KeyboardInterrupt):
    """What Ctrl-C raises.

    It has a class of its own since Python notes a plain KeyboardInterrupt that leaves an `exec` of
    a string, as of the methods of a dataclass, and dies of the signal at its end, however the
    program ended.
    """


class Interrupts:
    """Listens for Ctrl-C.

    Attributes:
        is_set: Whether it came.
        is_importing: Whether the command line is still being imported. An exception in the middle
            of an import becomes another library's error, so that the process ends at once instead;
            nothing is written by then.
    """

    def __init__(self) -> None:
        self.is_set = False
        self.is_importing = True
        self._is_said = False

    def listen(self) -> None:
        """Begin, unless this is no main thread or Ctrl-C is ignored, as in a job of a shell."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return
        signal.signal(signal.SIGINT, self._take)
        if sys.platform != "win32":  # where it would need a socket
            woken, write = os.pipe()
            os.set_blocking(write, False)
            signal.set_wakeup_fd(write, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(woken,), daemon=True).start()

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
        if self.is_importing:
            self._end()
        raise Interrupted

    def _watch(self, woken: int) -> None:
        while number := os.read(woken, 1):
            # a server and a training run that listen themselves end in their own time
            is_ours = signal.getsignal(signal.SIGINT) == self._take
            if number[0] == signal.SIGINT and is_ours:
                time.sleep(PATIENCE_S)
                self._end()

    def say(self) -> None:
        """Print the one line, once."""
        if not self._is_said:
            self._is_said = True
            restored = _SHOW_CURSOR if os.isatty(2) else ""
            os.write(2, f"{restored}stopped\n".encode())

    def _end(self) -> None:
        """End without what Python would do at its end, which may wait for what runs."""
        files = sys.modules.get("polyrank._files")
        if files is not None:
            files.remove_unfinished()
        self.say()
        os._exit(INTERRUPTED)
