"""The connection between a shard and one of its nodes, as a table of transitions (FAST'20 section 3.3, Fig. 6).

The paper's machine crosses {sleeping, active, maybe} with {unvalidated, validating, validated}. Six things
differ, each because something is known here that was not there:

- A request does not wait for the PONG. It follows the PING on the same stream; if the function has gone, both
  stay unread and go to its next session or to another instance. Validation costs no round trip.
- Any answer of a node that is awake says as much as a PONG: one that is kept busy is not pinged.
- Reads do not wait for a sleeper to wake either. Its connection is frozen with it: what is written into that together
  with the invocation is the first thing that it finds. If another instance is served, they are moved there.
- Sessions have names, so "the former source's return is ignored" needs no guess: a return says whose it is.
  MAYBE is left for an instance that runs a session which this shard did not start (the shard restarted, or a peer
  replica took over).
- LEAVING: a function that said BYE is busy until its invocation has returned. Invoking it earlier would make the
  platform start a second, empty instance. With 100 ms billing cycles nobody saw the difference; with 1 ms sessions
  it is every day.
- A warm-up is no session. The function returns at once and says in its answer which instance it is and what it has:
  no connection is dialled, no PING, no lingering. While it is out the function is busy, as in LEAVING.
"""

from __future__ import annotations

import enum

from infiniray.members import quick_members

__all__ = ["AWAKE", "TRANSITIONS", "WAITING", "Action", "Activity", "Stimulus", "Validity", "step"]


class _Named(enum.Enum):
    """Members are told apart by identity: a hash in C, because the table below is read with every event."""

    __hash__ = object.__hash__


@quick_members
class Activity(_Named):
    SLEEPING = "sleeping"  # no session that we know of
    ACTIVE = "active"  # runs a session that we invoked
    LEAVING = "leaving"  # its session is over, the invocation has not returned yet
    MAYBE = "maybe"  # runs a session that somebody else invoked


@quick_members
class Validity(_Named):
    UNVALIDATED = "unvalidated"  # may have gone since we last heard from it
    VALIDATING = "validating"  # asked (invoked or pinged), no answer yet
    VALIDATED = "validated"  # answered, and nothing was sent since


@quick_members
class Stimulus(_Named):
    REQUEST = "request"  # there is something to send
    HEARD = "heard"  # HELLO or PONG of a session that we invoked
    HEARD_OTHER = "heard other"  # HELLO or PONG of some other session
    ANSWERED = "answered"  # a request, over the current link, while nothing was known since that was sent
    BYE = "bye"  # of the session on the current link
    RETURNED = "returned"  # the invocation whose session we talk to, or wait for
    CLOSED = "closed"  # the current link
    SILENCE = "silence"  # no answer in time to an invocation or a PING
    WARM = "warm"  # nobody has asked anything of it for a while


@quick_members
class Action(_Named):
    INVOKE = "invoke"
    PING = "ping"
    FLUSH = "flush"  # send what is queued over the current link
    AHEAD = "ahead"  # send reads over the link of an instance that is being woken
    RESUME = "resume"  # invoke again if requests are waiting for an answer, after a pause if it just failed
    SUSPECT = "suspect"  # let reads and writes prefer other nodes
    WARM = "warm"  # invoke it, only to keep it


S, A, L, M = Activity.SLEEPING, Activity.ACTIVE, Activity.LEAVING, Activity.MAYBE
U, VG, VD = Validity.UNVALIDATED, Validity.VALIDATING, Validity.VALIDATED
State = tuple[Activity, Validity]

#: (state, stimulus) -> (next state, what to do). A pair that is not listed cannot happen, except that RETURNED
#: changes nothing in MAYBE: it tells of an invocation that is not the one running.
TRANSITIONS: dict[tuple[State, Stimulus], tuple[State, tuple[Action, ...]]] = {
    # asleep: wake it, and send when it speaks
    ((S, U), Stimulus.REQUEST): ((S, VG), (Action.INVOKE, Action.AHEAD)),
    ((S, U), Stimulus.HEARD): ((A, VD), (Action.FLUSH,)),
    ((S, U), Stimulus.HEARD_OTHER): ((M, VD), (Action.FLUSH,)),
    ((S, U), Stimulus.BYE): ((S, U), ()),
    ((S, U), Stimulus.RETURNED): ((S, U), ()),
    ((S, U), Stimulus.CLOSED): ((S, U), ()),
    ((S, U), Stimulus.WARM): ((L, U), (Action.WARM,)),
    ((S, VG), Stimulus.REQUEST): ((S, VG), (Action.AHEAD,)),
    ((S, VG), Stimulus.HEARD): ((A, VD), (Action.FLUSH,)),
    ((S, VG), Stimulus.HEARD_OTHER): ((M, VD), (Action.FLUSH,)),
    ((S, VG), Stimulus.BYE): ((S, VG), ()),
    ((S, VG), Stimulus.RETURNED): ((S, U), (Action.RESUME,)),
    ((S, VG), Stimulus.CLOSED): ((S, VG), ()),
    ((S, VG), Stimulus.SILENCE): ((S, U), (Action.SUSPECT,)),  # the next request may try a second instance
    # awake: ask and send in one go
    ((A, U), Stimulus.REQUEST): ((A, VG), (Action.PING, Action.FLUSH)),
    ((A, VG), Stimulus.REQUEST): ((A, VG), (Action.FLUSH,)),
    ((A, VD), Stimulus.REQUEST): ((A, U), (Action.FLUSH,)),
    ((A, U), Stimulus.ANSWERED): ((A, VD), ()),
    ((A, VG), Stimulus.SILENCE): ((A, VG), (Action.SUSPECT,)),
    # on its way out: neither send nor invoke
    ((L, U), Stimulus.REQUEST): ((L, U), ()),
    ((L, U), Stimulus.HEARD): ((A, VD), (Action.FLUSH,)),
    ((L, U), Stimulus.HEARD_OTHER): ((M, VD), (Action.FLUSH,)),
    ((L, U), Stimulus.BYE): ((L, U), ()),
    ((L, U), Stimulus.RETURNED): ((S, U), (Action.RESUME,)),
    ((L, U), Stimulus.CLOSED): ((L, U), ()),
    ((L, U), Stimulus.SILENCE): ((S, U), (Action.SUSPECT, Action.RESUME)),
    # somebody else's session: as good as ours while it lasts
    ((M, U), Stimulus.REQUEST): ((M, VG), (Action.PING, Action.FLUSH)),
    ((M, VG), Stimulus.REQUEST): ((M, VG), (Action.FLUSH,)),
    ((M, VD), Stimulus.REQUEST): ((M, U), (Action.FLUSH,)),
    ((M, U), Stimulus.ANSWERED): ((M, VD), ()),
    ((M, VG), Stimulus.SILENCE): ((S, VG), (Action.INVOKE,)),
}
for _validity in Validity:
    TRANSITIONS |= {
        ((A, _validity), Stimulus.HEARD): ((A, VD), (Action.FLUSH,)),
        ((A, _validity), Stimulus.HEARD_OTHER): ((M, VD), (Action.FLUSH,)),
        ((A, _validity), Stimulus.BYE): ((L, U), ()),
        ((A, _validity), Stimulus.RETURNED): ((S, U), (Action.RESUME,)),
        ((A, _validity), Stimulus.CLOSED): ((L, U), ()),
        ((M, _validity), Stimulus.HEARD): ((A, VD), (Action.FLUSH,)),
        ((M, _validity), Stimulus.HEARD_OTHER): ((M, VD), (Action.FLUSH,)),
        ((M, _validity), Stimulus.BYE): ((S, U), (Action.RESUME,)),
        ((M, _validity), Stimulus.RETURNED): ((M, _validity), ()),
        ((M, _validity), Stimulus.CLOSED): ((S, U), (Action.RESUME,)),
    }


#: A session is going on, as far as is known.
AWAKE = frozenset({A, M})
#: An answer is expected, or the end of a departure: not for ever.
WAITING = frozenset(
    (activity, validity) for activity in Activity for validity in Validity if activity is L or validity is VG
)


def step(state: State, stimulus: Stimulus) -> tuple[State, tuple[Action, ...]]:
    """The next state and what to do, in order.

    Raises:
        KeyError: this stimulus cannot come in this state; nothing changed.
    """
    return TRANSITIONS[state, stimulus]
