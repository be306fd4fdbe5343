"""Tables in `docs/` of what the tests show, made from the tests themselves.

    python -m tables            # write them
    python -m tables --check    # say whether they are as the tests are

`docs/coverage.md` has a table for each client: its ways to send and to consume, and the laws.
`docs/pain-points.md` has every known failure of other libraries with the tests that carry its number at the
start of their docstring.
"""
