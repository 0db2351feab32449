"""Whether work can be done in time: sums over what has been promised. No clock, no queue.

A set of requests can all be answered in time exactly if it can be done in the order of their
deadlines. So admission adds up what lies ahead in that order. The queue may serve in any other
order as long as that sum leaves every request some slack.

Reference: Liu and Layland, JACM 1973 (earliest deadline first).
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

SHARE_OF_WAITING = 0.6  # of a request's time that what lies ahead of it may take
ADMISSION_MARGIN = 0.12  # of its time that must be left when it is done, for all that is not seen
SLACK_KEPT = 0.1  # of its time: with less to spare it goes first
DOUBT = 1.25  # work is given up once it would take so many times the time that is left


class Claim(NamedTuple):
    """What one request still needs.

    Attributes:
        deadline: When its time ends; infinity where it has no deadline.
        seconds: Work left, at the speed seen.
        patience_s: Time that it had when it came.
        has_begun: Whether some of it was computed.
    """

    deadline: float
    seconds: float
    patience_s: float = inf
    has_begun: bool = False


def wait_for_room_s(claims: Sequence[Claim], new: Claim, now: float, *, is_held: bool) -> float:
    """Return in how many seconds a request of this size would be admitted; 0 for at once.

    What lies ahead may take six tenths of the request's time, whatever its own size: with one
    limit on the sum, small requests would fill every gap and large ones never get in (at 0.8, and
    twice the load that can be served, 82 % of the small and 24 % of the large). One that comes
    while nothing waits is always admitted, so that a wrong idea of the speed can be corrected.

    Args:
        claims: What is promised already, by deadline.
        new: The request.
        now: The time.
        is_held: Whether the request has a place already and only its size is news.

    Returns:
        Seconds, if nothing else comes.
    """
    if not claims or new.deadline == inf:
        return 0.0
    ahead = sum(claim.seconds for claim in claims if claim.deadline <= new.deadline)
    whole = ahead + new.seconds
    late = whole - (new.deadline - now) + ADMISSION_MARGIN * new.patience_s
    too_long = 0.0 if is_held else ahead - SHARE_OF_WAITING * new.patience_s
    spoilt = _spoilt_s(claims, new, now)
    if max(late, too_long, spoilt) <= 0:
        return 0.0
    again = whole - (1 - ADMISSION_MARGIN) * new.patience_s
    idle = sum(claim.seconds for claim in claims)
    return min(max(again, too_long, spoilt, 0.0), idle)


def _spoilt_s(claims: Sequence[Claim], new: Claim, now: float) -> float:
    """Return when the last of those will be done that a new request would make late; 0 for none."""
    done, last = 0.0, 0.0
    for claim in claims:
        done += claim.seconds
        slack = claim.deadline - now - done
        kept = SLACK_KEPT * claim.patience_s
        if claim.deadline > new.deadline and 0 < slack < new.seconds + kept:
            last = done
    return last


def num_pressing(claims: Sequence[Claim], now: float) -> int:
    """Return how many of the first requests must be served before all others.

    Serving one leaves less slack to those of earlier deadlines alone. So if the first of little
    slack is the n-th, any of the first n may go on, and none behind it.

    Args:
        claims: What is promised, by deadline.
        now: The time.

    Returns:
        0 where all have time to spare. What cannot be done in its time presses nobody.
    """
    done = 0.0
    for i, claim in enumerate(claims):
        left = claim.deadline - now
        if claim.seconds > left:
            continue
        done += claim.seconds
        if claim.deadline < inf and left - done < SLACK_KEPT * claim.patience_s:
            return i + 1
    return 0


def hopeless(claims: Sequence[Claim], now: float) -> list[int]:
    """Return which requests will not be done in time and had better not be computed.

    What has begun is given up only if it could not be done even alone. Of the rest, what came
    first stays.

    Args:
        claims: What is promised, by deadline.
        now: The time.

    Returns:
        Their places. A request alone is never given up: nobody would gain.
    """
    if len(claims) < 2:
        return []
    found, done = [], 0.0
    for i, claim in enumerate(claims):
        needed = claim.seconds if claim.has_begun else done + claim.seconds
        if needed > DOUBT * max(claim.deadline - now, 0.0):
            found.append(i)
        else:
            done += claim.seconds
    return found
