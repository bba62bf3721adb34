from __future__ import annotations

import os
import signal

import pytest

from llamavae.errors import Terminated
from llamavae.training.callbacks import StopSafely


@pytest.mark.parametrize(("number", "terminated"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_the_second_signal_stops_at_once(number: signal.Signals, terminated: bool) -> None:
    stop = StopSafely(trainer=None)  # type: ignore[arg-type] one process does not use it
    with stop:
        os.kill(os.getpid(), number)
        assert (stop.asked, stop.terminated) == (True, terminated)
        with pytest.raises(KeyboardInterrupt) as caught:
            os.kill(os.getpid(), number)
    assert isinstance(caught.value, Terminated) == terminated
