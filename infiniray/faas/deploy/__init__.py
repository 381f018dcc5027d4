"""Functions on a platform, and what they need around them: made, brought up to date, taken away.

What there is, the resources themselves say, by their tags: no file remembers it. ``read`` (:mod:`.actual`) looks,
:mod:`.desired` says what a configuration asks for, :mod:`.plan` compares the two without touching anything, and
:mod:`.apply` makes the difference go away. Whatever interrupts it, doing it again completes it.
"""
