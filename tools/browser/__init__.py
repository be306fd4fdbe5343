"""Finds the browser that the tests of the page run in: Chromium, and the driver that steers it."""

from browser.search import Browser, explain, find

__all__ = ["Browser", "explain", "find"]
