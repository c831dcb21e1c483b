"""The report: figures drawn from the tables of the statistics, their numbers, and one page."""
