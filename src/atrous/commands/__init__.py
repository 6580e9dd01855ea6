"""The verbs of the command line, such as `atrous train`: each public file contains the function of one verb."""
