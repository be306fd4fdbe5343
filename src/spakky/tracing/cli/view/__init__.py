"""Draws recorded spans: reads them from files, puts them into traces, shows them as a tree or as a page."""
