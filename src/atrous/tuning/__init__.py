"""The search for better values of a recipe's fields: the space, the study, its trials and their confirmation."""
