"""The documentation site: what is built besides the pages in `docs/`.

`python -m documentation [FOLDER]` builds the site; `make docs` does, and says where its first page is.
`mkdocs.yml` names the parts:

- `top_pages`: RATIONALE, CHANGELOG and CONTRIBUTING, which stay at the top of the repository.
- `reference`: one page for each public module, which has its docstrings.
- `docstrings`: verbs as functions of their integrations, names in docstrings as links, programs in colours.
"""
