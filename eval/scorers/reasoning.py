"""Thoughts in a reply, which lmms-eval removes before any benchmark's rule sees it."""

TAGS = (("<think>", "</think>"), ("<analysis>", "</analysis>"))


def without_thoughts(reply: str) -> str:
    """The reply without its blocks of thoughts, or as it is where it has none.

    A closing tag alone (chat templates may write the opening one) cuts off all before it; an opening tag alone stays.
    Behind a block that went, white space at both ends goes too. lmms-eval's command line strips that of every reply;
    its rules as protocols describe them do not, and neither do ours.
    """
    left = reply
    for opening, closing in TAGS:
        while (start := left.find(opening)) >= 0 and (end := left.find(closing, start)) >= 0:
            left = left[:start] + left[end + len(closing) :]
        if opening not in left:
            left = left.rpartition(closing)[2]
    return left if left == reply else left.strip()
