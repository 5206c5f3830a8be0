"""The display of arrays, blocks and pools at a terminal and in a notebook.

Everything here is given plain facts and makes text of them. Three promises hold for all of it:

- **text is untrusted**: names, dtypes and values are escaped, and characters that cannot be printed are
  spelled out;
- **data is sampled**: no function reads a large array whole;
- **the page keeps its colours**: text takes the page's own colour, and lines are of middle tones, so that
  both can be read on white and on black.

The reports of a pool (`CopyReport`, `PoolStats`, `Timeline`) are snapshots that refer to nothing of the pool:
you may keep and pickle them, and read them when the pool is gone. Each has a text for a terminal (`str`) and
HTML for a notebook.

The modules of this package, bottom to top; imports go downwards only:

=============  =====================================================================
text           times, counts and untrusted text
tables         HTML tables of facts
picture        HTML of an array's data as a small picture
datasets       HTML of several named arrays
block_table    the table of blocks, for Python, ``ls``, ``info`` and ``top``
spans          which worker ran which task, and when
chrome_trace   these spans in the Trace Event Format
timeline_text  these spans as text: one row for each worker
timeline_svg   these spans as SVG: one lane for each worker
timeline       `Timeline`: a sequence of spans, its pictures and its files
copies         `CopyReport`: how the arguments and results of a call travelled
pool_stats     `PoolStats`: what a pool is doing, in figures
=============  =====================================================================
"""

from sharedarray._display.datasets import dataset
from sharedarray._display.picture import picture
from sharedarray._display.tables import card, table, values
from sharedarray._display.text import age, escaped, grouped, human, plain

__all__ = ["age", "card", "dataset", "escaped", "grouped", "human", "picture", "plain", "table", "values"]
