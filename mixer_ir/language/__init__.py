"""The words of the language: declaring mixers, matrices and signals, and their text form."""
