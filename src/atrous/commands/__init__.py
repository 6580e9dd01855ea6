"""The verbs of the command line: each file contains the function of one verb."""
