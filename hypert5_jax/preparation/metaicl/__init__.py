"""MetaICL: its lists of tasks (lists.txt) and its files, read as they are published."""
