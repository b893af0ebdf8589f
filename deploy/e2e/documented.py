"""The texts of docs/events.md, which events in the cluster are compared with."""
import re

import testbed

PAGE = testbed.DEPLOY.parent / "docs" / "events.md"


def rows():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def told(situation, call, store="lake"):
    """Code and text of what cannot be mounted or made, where it is about `store`."""
    code, text = next(row[2:] for row in rows() if row[:2] == [situation, call])
    return code, named(text, store)


def befell(reason, volume, store="lake"):
    """The text of what befell a mount."""
    text = next(row[1] for row in rows() if row[0] == f"`{reason}`")
    return named(text.replace("pvc-1", volume), store)


def named(text, store):
    """The page's stores are those of other tests."""
    return re.sub(r'store "[a-z-]+"', f'store "{store}"', text)
