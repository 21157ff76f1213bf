"""Files that people bring: one way from bytes to lines (`text`), from lines to cells, from cells to fields (`columns`).

Prompt files, OpenAI's batches and wildcards are read through here, so that all of them know the same encodings, line
ends and spreadsheets.
"""
